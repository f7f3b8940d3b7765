//! `vminfod top`, the live view, in a real terminal: that of tmux.

use std::path::Path;
use std::process::Command;

use crate::harness::programs::needs;
use crate::harness::{Daemon, TestHost, VMINFOD, free_address, kill};
use crate::terminal::Terminal;

fn address(daemon: &Daemon) -> String {
    daemon.addr.to_string()
}

#[test]
fn top_follows_the_vms() {
    needs!["tmux"];
    let host = TestHost::with_vms(6);
    let addr = free_address();
    let daemon = host.start_with(&["--listen", &addr]);
    let names = host.zonenames().unwrap();
    let stopped = names.iter().find(|name| !host.is_up(name).unwrap());
    let stopped = stopped.unwrap();
    let short = stopped.split('-').next().unwrap();
    let terminal = Terminal::run("\"$V\" top", &address(&daemon));
    let screen = terminal.wait_for_text("healthy");
    assert!(screen[0].starts_with(&format!("vminfod {addr}  6 VMs: ")));
    let header = "UUID      TYPE    RAM^  STATE          ALIAS             \
                  LAST CHANGE";
    assert_eq!(screen[2], header);
    assert!(screen[23].starts_with("q quit"), "{screen:?}");
    let row = |screen: &[String], name: &str| {
        let found = screen.iter().position(|line| line.starts_with(name));
        found.unwrap_or_else(|| panic!("{name} not in {screen:#?}"))
    };
    let line = screen[row(&screen, short)].clone();
    assert!(line.contains("  stopped "), "{line}");

    // A VM starts.
    host.boot_without_time(stopped).unwrap();
    let is_told = |screen: &str| {
        let is_row = |line: &str| {
            line.starts_with(short)
                && line.contains("  running ")
                && line.contains(" s: ")
        };
        screen.lines().any(is_row)
            && screen.contains("state: \"ready\" -> \"running\"")
            && screen.contains("latency")
    };
    let screen = terminal.wait_for("the VM runs", is_told);
    let line = &screen[row(&screen, short)];
    assert!(line.contains("  running "), "{line}");
    assert!(screen[0].contains("6 VMs: 5 running"), "{screen:?}");
    let events = row(&screen, "events");
    let is_event = |line: &String| {
        line.contains(&format!(" {short} ")) && line.contains(" -> ")
    };
    assert!(screen[events..].iter().any(is_event), "{screen:#?}");
    // The change is highlighted.
    let coloured = terminal.screen(&["-e"]);
    let line = coloured.lines().find(|line| line.contains(": running"));
    assert!(line.unwrap().contains("\x1b[1m\x1b[33m"), "{line:?}");

    // Sorted by the last change, the newest first; and the other way round.
    terminal.press(&["c"]);
    let screen = terminal.wait_for_text("LAST CHANGE^");
    assert_eq!(row(&screen, short), 3);
    terminal.press(&["r"]);
    let screen = terminal.wait_for_text("LAST CHANGEv");
    assert_eq!(row(&screen, short), 8, "{screen:#?}");

    // A filter leaves only some rows.
    terminal.press(&["/", short]);
    let screen = terminal.wait_for_text(&format!("filter: {short}_"));
    assert_eq!(row(&screen, short), 3);
    assert_eq!(screen[4], "", "{screen:#?}");
    terminal.press(&["Escape"]);
    terminal.wait_for_text("q quit");
    terminal.press(&["?"]);
    terminal.wait_for_text("sort by uuid");
    terminal.press(&["?", "e"]);
    terminal.wait_for("no events", |screen| !screen.contains("events\n"));
    terminal.press(&["e", "r"]);
    terminal.wait_for_text("LAST CHANGE^");

    // Another size.
    let resized = ["resize-window", "-x", "120", "-y", "12"];
    assert!(terminal.tmux(&resized).status.success());
    let screen = terminal.wait_for_text(stopped);
    assert_eq!(screen.len(), 12);
    assert!(screen[11].starts_with("q quit"), "{screen:#?}");

    // Another daemon, which finds other VMs.
    drop(daemon);
    terminal.wait_for_text("; trying again");
    host.delete(&names[0]).unwrap();
    let daemon = host.start_with(&["--listen", &addr]);
    terminal.wait_for("it goes on", |screen| {
        screen.contains("5 VMs: ")
            && screen.contains("healthy")
            && screen.contains(" delete\n")
    });
    // Text of a VM can't control the terminal.
    host.update(stopped, "alias", "a\x1b[2J\x07b").unwrap();
    terminal.wait_for_text("a\\u001b[2J\\u0007b");

    terminal.press(&["q"]);
    let screen = terminal.wait_for_text("after 0");
    assert_eq!(screen[..2], ["before", "after 0"]);
    drop(daemon);
}

#[test]
fn a_signal_ends_top_and_restores_the_terminal() {
    needs!["tmux"];
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let script = "sh -c 'echo $$ > $DIR/pid; exec \"$V\" top'";
        let script = script.replace("$DIR", host.root().to_str().unwrap());
        let terminal = Terminal::run(&script, &address(&daemon));
        terminal.wait_for_text("healthy");
        let pid = host.root().join("pid");
        let pid = std::fs::read_to_string(pid).unwrap();
        assert!(kill(signal, pid.trim()));
        let screen = terminal.wait_for_text("after 0");
        assert_eq!(screen[..2], ["before", "after 0"], "{signal}");
        // The terminal shows again what is typed.
        terminal.press(&["typed", "Enter"]);
        let screen = terminal.wait_for_text("typed");
        assert!(screen.contains(&"typed".to_string()), "{screen:?}");
    }
}

#[test]
fn top_can_be_suspended_and_resumed() {
    needs!["tmux"];
    let host = TestHost::with_vms(2);
    let daemon = host.start();
    let file = host.root().join("setup");
    std::fs::write(&file, "PS1='> '\nset -m\n").unwrap();
    let script = format!("bash --rcfile {} -i", file.display());
    let terminal = Terminal::run(&script, &address(&daemon));
    terminal.wait_for("a prompt", |screen| screen.contains("\n>"));
    let pid = host.root().join("pid");
    let pid = pid.to_str().unwrap();
    // Within another shell, so that the whole job must stop.
    let line = format!("sh -c 'echo $$ > {pid}; \"$V\" top; echo ended $?'");
    terminal.press(&["-l", &line]);
    terminal.press(&["Enter"]);
    terminal.wait_for_text("healthy");
    terminal.press(&["C-z"]);
    terminal.wait_for_text("Stopped");
    terminal.press(&["-l", "fg"]);
    terminal.press(&["Enter"]);
    terminal.wait_for_text("healthy");
    // Stopped by another process, it takes its terminal back, too.
    let group = std::fs::read_to_string(pid).unwrap();
    let group = format!("-{}", group.trim());
    let kill = |signal: &str| assert!(kill(signal, &group));
    kill("STOP");
    terminal.press(&["-l", "fg"]);
    terminal.wait_for_text("Stopped");
    terminal.press(&["Enter"]);
    terminal.wait_for_text("healthy");
    terminal.press(&["q"]);
    terminal.wait_for_text("ended 0");
}

#[test]
fn top_prints_a_table_if_there_is_no_terminal() {
    let host = TestHost::with_vms(3);
    let daemon = host.start();
    let output = Command::new(Path::new(VMINFOD))
        .args(["top", "--server", &address(&daemon)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(lines[0].contains("3 VMs: ") && lines[1].starts_with("healthy"));
    let header: Vec<_> = lines[2].split_whitespace().collect();
    let wanted = ["UUID", "TYPE", "RAM^", "STATE", "ALIAS", "LAST", "CHANGE"];
    assert_eq!(header, wanted, "{text}");
    for (line, name) in lines[3..].iter().zip(host.zonenames().unwrap()) {
        assert!(!text.contains('\x1b') && text.contains(&name), "{line}");
    }
}
