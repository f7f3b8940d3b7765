//! zoneadm, zfs, kstat or sysevent, by the name it is called by; else the
//! tool that lays a simulated host out and changes it.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use simhost::emit::Channel;
use simhost::{Host, Result, commands};

const USAGE: &str = "\
usage: simhost COMMAND ROOT [ARGUMENT]...

  init ROOT --vms N                 lay out a host with N VMs
  import ROOT DIR                   lay out a recorded host
  list ROOT                         the zones' names
  create ROOT NUMBER [BRAND]        create VM number NUMBER; prints its uuid
  delete|start|stop|reboot|restart-init ROOT ZONENAME
  update ROOT ZONENAME PROP=VALUE...
                                    alias, cpu_cap, quota, autoboot, ram, ...
                                    tags.KEY, customer_metadata.KEY, routes.KEY
                                    add_nic=MAC, remove_nic=MAC, nics.MAC.PROP
                                    add_disk=MIB, remove_disk=N
  snapshot|delete-snapshot|rollback ROOT ZONENAME NAME
  zfs ROOT create|destroy|snapshot|hold|release DATASET
  zfs ROOT set PROP=VALUE DATASET
  zfs ROOT inherit PROP DATASET
  zfs ROOT rename OLD NEW
  touch-sysinfo ROOT [KEY=VALUE]
  hurt ROOT zoneadm|zfs|kstat|sysevent-zone|sysevent-zfs FAULT...
            slow MS, fail TEXT, hang, truncate, garbage, empty,
            block (until heal), heal;
            for sysevent also: drop, duplicate, reorder, die, raw TEXT
            a last word times=N limits it
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let called = Path::new(args.first().map_or("", String::as_str));
    let name = called.file_name().unwrap_or_default().to_string_lossy();
    let result = match &*name {
        "zoneadm" | "zfs" | "kstat" | "sysevent" => {
            // ROOT/usr/sbin/zoneadm
            let root = called.ancestors().nth(3).unwrap_or(Path::new("/"));
            commands::run(root, &name, &args[1..]).map_err(Into::into)
        }
        _ => act(&args[1..]),
    };
    match result {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn act(args: &[String]) -> Result<i32> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let program = std::env::current_exe()?;
    let host = |root: &str| -> Result<Host> {
        Ok(Host::new(&std::path::absolute(root)?))
    };
    match args[..] {
        ["init", root, "--vms", n] => host(root)?.init(&program, n.parse()?)?,
        ["import", root, dir] => {
            host(root)?.import(&program, Path::new(dir))?;
        }
        ["list", root] => {
            for zonename in host(root)?.zonenames()? {
                // Who reads may have had enough.
                if writeln!(io::stdout(), "{zonename}").is_err() {
                    break;
                }
            }
        }
        ["create", root, number, ref brand @ ..] => {
            let mut spec = Host::spec(number.parse()?);
            if let Some(brand) = brand.first() {
                spec.brand = (*brand).to_string();
                if !spec.is_hvm() {
                    spec.disks.clear();
                }
            }
            host(root)?.create(&spec)?;
            println!("{}", spec.uuid);
        }
        ["delete", root, zone] => host(root)?.delete(zone)?,
        ["start", root, zone] => host(root)?.start(zone)?,
        ["stop", root, zone] => host(root)?.stop(zone, -1)?,
        ["reboot", root, zone] => host(root)?.reboot(zone)?,
        ["restart-init", root, zone] => host(root)?.restart_init(zone)?,
        ["update", root, zone, ref changes @ ..] => {
            for change in changes {
                let (property, value) =
                    change.split_once('=').ok_or("PROP=VALUE is wanted")?;
                host(root)?.update(zone, property, value)?;
            }
        }
        ["snapshot", root, zone, name] => host(root)?.snapshot(zone, name)?,
        ["delete-snapshot", root, zone, name] => {
            host(root)?.delete_snapshot(zone, name)?;
        }
        ["rollback", root, zone, name] => host(root)?.rollback(zone, name)?,
        ["zfs", root, ref words @ ..] => zfs(&host(root)?, words)?,
        ["touch-sysinfo", root, ref words @ ..] => {
            let member = words.first().and_then(|w| w.split_once('='));
            host(root)?.touch_sysinfo(member)?;
        }
        ["hurt", root, what, ref words @ ..] => {
            let channel = match what {
                "sysevent-zone" => Channel::Zone,
                _ => Channel::Zfs,
            };
            match words {
                ["die"] => host(root)?.kill_sysevent(channel)?,
                ["raw", text @ ..] => {
                    let line = text.join(" ") + "\n";
                    host(root)?.raw_sysevent(channel, line.as_bytes())?;
                }
                words => host(root)?.hurt(what, &words.join(" "))?,
            }
        }
        _ => {
            eprint!("{USAGE}");
            return Ok(2);
        }
    }
    Ok(0)
}

fn zfs(host: &Host, words: &[&str]) -> Result<()> {
    let pair = |word: &'static str| move || format!("{word} is wanted");
    match words {
        ["create", name] => host.zfs_create(name, None, &[]),
        ["destroy", name] => host.zfs_destroy(name),
        ["snapshot", name] => {
            let (dataset, snapshot) =
                name.split_once('@').ok_or_else(pair("DATASET@NAME"))?;
            host.zfs_snapshot(dataset, snapshot, false)
        }
        ["hold", name] => host.zfs_hold(name, true),
        ["release", name] => host.zfs_hold(name, false),
        ["set", change, name] => {
            let (property, value) =
                change.split_once('=').ok_or_else(pair("PROP=VALUE"))?;
            host.zfs_set(name, property, value)
        }
        ["inherit", property, name] => host.zfs_inherit(name, property),
        ["rename", from, to] => host.zfs_rename(from, to),
        _ => Err(format!("not known: zfs {}", words.join(" ")).into()),
    }
}
