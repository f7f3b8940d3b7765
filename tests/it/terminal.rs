//! A real terminal, provided by tmux.

use std::process::{Command, Output};

use crate::harness::{TempDir, VMINFOD, wait_for};

/// A terminal.
pub struct Terminal {
    dir: TempDir,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

impl Terminal {
    /// A terminal of 80 columns and 24 lines, in which a shell runs `script`.
    pub fn run(script: &str, addr: &str) -> Self {
        let terminal = Self { dir: TempDir::new() };
        // The shell's words before and after it show whether the screen is
        // restored.
        let script = format!("echo before; {script}; echo after $?; cat");
        let begun = terminal
            .command(&["-f", "/dev/null", "new-session", "-d"])
            .args(["-x", "80", "-y", "24", "sh", "-c", &script])
            .env("VMINFOD_SERVER", addr)
            .env("V", VMINFOD)
            .output();
        let begun = begun.unwrap();
        assert!(begun.status.success(), "{begun:?}");
        terminal
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(self.dir.0.join("tmux"));
        command.args(args).env_remove("NO_COLOR").env_remove("TMUX");
        command
    }

    pub fn tmux(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn press(&self, keys: &[&str]) {
        let sent = self.tmux(&[&["send-keys"], keys].concat());
        assert!(sent.status.success(), "{sent:?}");
    }

    /// The text on the screen, line by line; `-e` in `how` keeps colours.
    pub fn screen(&self, how: &[&str]) -> String {
        let shown = self.tmux(&[&["capture-pane", "-p"], how].concat());
        assert!(shown.status.success(), "{shown:?}");
        String::from_utf8(shown.stdout).unwrap()
    }

    /// Waits until the screen is as wanted, and returns it.
    pub fn wait_for(
        &self,
        what: &str,
        is_so: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        wait_for(what, || {
            let screen = self.screen(&[]);
            match is_so(&screen) {
                true => Ok(screen.lines().map(String::from).collect()),
                false => Err(screen),
            }
        })
    }

    pub fn wait_for_text(&self, text: &str) -> Vec<String> {
        self.wait_for(text, |screen| screen.contains(text))
    }
}
