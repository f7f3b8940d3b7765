//! A command of the platform, such as zoneadm or zfs, if it is called by that
//! name; else the tool that lays out a simulated host and changes it.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use simhost::commands::{self, PATHS};
use simhost::emit::Channel;
use simhost::hurt::{self, Fault};
use simhost::{Host, Result};

const USAGE: &str = "\
usage: simhost COMMAND ROOT [ARGUMENT]...

  init ROOT --vms N                 lay out a host with N VMs
  import ROOT DIR                   lay out a recorded host
  list ROOT                         the zones' names
vmadm:
  create ROOT NUMBER [BRAND]        create VM number NUMBER; prints its uuid
  delete|start|stop|reboot ROOT ZONENAME
  update ROOT ZONENAME PROP=VALUE...
                                    alias, cpu_cap, quota, autoboot, ram, ...
                                    tags.KEY, customer_metadata.KEY, routes.KEY
                                    add_nic=MAC, remove_nic=MAC, nics.MAC.PROP
                                    add_disk=MIB, remove_disk=N
  snapshot|delete-snapshot|rollback ROOT ZONENAME NAME
zonecfg, zoneadm, kernel:
  rename|set-uuid|move|mark ROOT ZONENAME NEW
  create-again|zonecfg-delete|uninstall|attach|detach ROOT ZONENAME
  ready|boot|boot-fails|boot-without-init|restart-init|end-init ROOT ZONENAME
  halt|halt-hangs|halt-without-release|release ROOT ZONENAME
  exit ROOT ZONENAME STATUS         init ends with this wait status
  reboot-with-late-free ROOT ZONENAME
  ping ROOT                         a record of the zone channel without data
zfs:
  zfs ROOT create|destroy|snapshot|hold|release DATASET
  zfs ROOT set PROP=VALUE DATASET
  zfs ROOT inherit PROP DATASET
  zfs ROOT rename OLD NEW
  zpool ROOT create|export|import POOL
  config ROOT snapshot|rollback POOL NAME
                                    of the dataset that holds /etc/zones
  touch-sysinfo ROOT [KEY=VALUE]
  dtd ROOT ELEMENT ATTRIBUTE        a later DTD allows this attribute
faults:
  hurt ROOT zoneadm|zfs|kstat FAULT...
            slow MS, fail TEXT, hang, linger, truncate, garbage, empty,
            block (until heal), heal;
            zoneadm: halfway 1|2|3, short LINES (of the index), no-zfs;
            zfs: no-pools, abort, empty-walk
  hurt ROOT zfs:POOL FAULT...
            suspended, exported, cut ROWS, slow MS, hang, block, heal
  hurt ROOT zfs:DATASET io-error|heal
  hurt ROOT sysevent-zone|sysevent-zfs FAULT...
            drop, duplicate, reorder, die, stall, raw TEXT, heal
  hurt ROOT sysevent-zone-start|sysevent-zfs-start fail TEXT|hang|heal
  hurt ROOT operation killed STEPS  the next operations are killed after STEPS steps
            times=N as the last word: the fault occurs N times
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let called = Path::new(args.first().map_or("", String::as_str));
    let name = called.file_name().unwrap_or_default().to_string_lossy();
    let result = match &*name {
        _ if PATHS.iter().any(|path| path.ends_with(&format!("/{name}"))) => {
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
        let host = Host::new(&std::path::absolute(root)?);
        Ok(match hurt::take(host.root(), "operation") {
            Some(Fault::Killed(steps)) => host.killed_after(steps),
            _ => host,
        })
    };
    match args[..] {
        ["init", root, "--vms", n] => host(root)?.init(&program, n.parse()?)?,
        ["import", root, dir] => {
            host(root)?.import(&program, Path::new(dir))?;
        }
        ["list", root] => {
            for zonename in host(root)?.zonenames()? {
                // The reader may have closed the pipe.
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
        ["update", root, zone, ref changes @ ..] => {
            for change in changes {
                let (property, value) =
                    change.split_once('=').ok_or("expected PROP=VALUE")?;
                host(root)?.update(zone, property, value)?;
            }
        }
        ["zfs", root, ref words @ ..] => zfs(&host(root)?, words)?,
        ["zpool", root, "create", pool] => host(root)?.zpool_create(pool)?,
        ["zpool", root, "export", pool] => host(root)?.zpool_export(pool)?,
        ["zpool", root, "import", pool] => host(root)?.zpool_import(pool)?,
        ["config", root, "snapshot", pool, name] => {
            host(root)?.snapshot_config(pool, name)?;
        }
        ["config", root, "rollback", pool, name] => {
            host(root)?.zfs_rollback(&format!("{pool}/config"), name)?;
        }
        ["ping", root] => host(root)?.zone_ping()?,
        ["touch-sysinfo", root, ref words @ ..] => {
            let member = words.first().and_then(|w| w.split_once('='));
            host(root)?.touch_sysinfo(member)?;
        }
        ["dtd", root, element, attribute] => {
            simhost::dtd::grow(Path::new(root), element, attribute)?;
        }
        ["hurt", root, what, ref words @ ..] => {
            let channel = match what {
                "sysevent-zone" => Channel::Zone,
                _ => Channel::Zfs,
            };
            match words {
                ["die"] => host(root)?.kill_sysevent(channel)?,
                ["stall"] => host(root)?.stall_sysevent(channel)?,
                ["raw", text @ ..] => {
                    let line = text.join(" ") + "\n";
                    host(root)?.raw_sysevent(channel, line.as_bytes())?;
                }
                words => host(root)?.hurt(what, &words.join(" "))?,
            }
        }
        [verb, root, zone] if of_zone(verb).is_some() => {
            if let Some(operation) = of_zone(verb) {
                operation(&host(root)?, zone)?;
            }
        }
        [verb, root, zone, new] if of_zone_to(verb).is_some() => {
            if let Some(operation) = of_zone_to(verb) {
                operation(&host(root)?, zone, new)?;
            }
        }
        _ => {
            eprint!("{USAGE}");
            return Ok(2);
        }
    }
    Ok(0)
}

/// An operation on a zone.
type OfZone = fn(&Host, &str) -> Result<()>;

fn of_zone(verb: &str) -> Option<OfZone> {
    Some(match verb {
        "delete" => Host::delete,
        "start" => Host::start,
        "stop" => |host, zone| host.stop(zone, -1),
        "reboot" => Host::reboot,
        "create-again" => |host, zone| {
            let xml = std::fs::read_to_string(host.xml_path(zone))?;
            host.zonecfg_create(zone, &xml, true)
        },
        "zonecfg-delete" => Host::zonecfg_delete,
        "uninstall" => Host::uninstall,
        "attach" => Host::attach,
        "detach" => Host::detach,
        "ready" => |host, zone| host.ready(zone).map(|_| ()),
        "boot" => Host::boot,
        "boot-fails" => Host::boot_fails,
        "boot-without-init" => Host::boot_without_init,
        "restart-init" => Host::restart_init,
        "end-init" => Host::end_init,
        "halt" => |host, zone| host.halt(zone, -1),
        "halt-hangs" => Host::halt_hangs,
        "halt-without-release" => Host::halt_without_release,
        "release" => Host::release,
        "reboot-with-late-free" => Host::reboot_with_late_free,
        _ => return None,
    })
}

/// An operation on a zone with one argument, such as its new name.
type OfZoneTo = fn(&Host, &str, &str) -> Result<()>;

fn of_zone_to(verb: &str) -> Option<OfZoneTo> {
    Some(match verb {
        "snapshot" => Host::snapshot,
        "delete-snapshot" => Host::delete_snapshot,
        "rollback" => Host::rollback,
        "rename" => Host::rename,
        "set-uuid" => Host::set_uuid,
        "move" => Host::move_zone,
        "mark" => Host::mark,
        "exit" => |host, zone, status| host.halt(zone, status.parse()?),
        _ => return None,
    })
}

fn zfs(host: &Host, words: &[&str]) -> Result<()> {
    let pair = |word: &'static str| move || format!("expected {word}");
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
