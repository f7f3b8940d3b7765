//! The platform's commands, as they answer on this host.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::emit::{Channel, DIE, RAW};
use crate::hurt;
use crate::state::{COLUMNS, State, column, lock};

/// Runs a command of the host at `root`; returns its exit status.
///
/// # Errors
/// If the host's state can't be read.
pub fn run(root: &Path, command: &str, args: &[String]) -> io::Result<i32> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    log_run(root, command, &args);
    if command == "sysevent" {
        return sysevent(root, &args);
    }
    let state = {
        let _lock = lock(root, true)?;
        match command {
            "zfs" => State::load(root)?,
            _ => State::load_zones(root)?,
        }
    };
    let (output, error, exit) = match command {
        "zoneadm" => zoneadm(&state, &args),
        "zfs" => zfs(&state, &args),
        _ => kstat(&state, &args),
    };
    if !error.is_empty() {
        eprint!("{error}");
    }
    Ok(hurt::print(root, command, &output, exit))
}

/// A line for each run in `ROOT/sim/runs`, for tests that count.
fn log_run(root: &Path, command: &str, args: &[&str]) {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(root.join("sim/runs"));
    if let Ok(mut file) = file {
        let _ = file
            .write_all(format!("{command} {}\n", args.join(" ")).as_bytes());
    }
}

type Answer = (String, String, i32);

fn zoneadm(state: &State, args: &[&str]) -> Answer {
    let usage = || (String::new(), "usage: zoneadm list [-cip]\n".into(), 2);
    let (mut zonename, mut uuid) = (None, None);
    let (mut parsable, mut all, mut installed) = (false, false, false);
    let mut verb = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "-z" if verb.is_none() => zonename = rest.next(),
            "-u" if verb.is_none() => uuid = rest.next(),
            "list" if verb.is_none() => verb = Some("list"),
            flags if verb.is_some() && flags.starts_with('-') => {
                for flag in flags[1..].chars() {
                    match flag {
                        'p' => parsable = true,
                        'c' => all = true,
                        'i' => installed = true,
                        _ => return usage(),
                    }
                }
            }
            _ => return usage(),
        }
    }
    if verb.is_none() {
        return usage();
    }
    let mut output = String::new();
    let one = zonename.is_some() || uuid.is_some();
    if !one {
        output.push_str(if parsable {
            "0:global:running:/::liveimg:shared:0\n"
        } else {
            "global\n"
        });
    }
    for entry in &state.index {
        let kernel = state.kernel.get(&entry.zonename);
        let name_fits = zonename.is_none_or(|z| *z == entry.zonename);
        let uuid_fits = uuid.is_none_or(|u| *u == entry.uuid);
        let listed = one
            || all
            || kernel.is_some()
            || (installed && entry.state == "installed");
        if !(name_fits && uuid_fits && listed) {
            continue;
        }
        if !parsable {
            let _ = writeln!(output, "{}", entry.zonename);
            continue;
        }
        let _ = writeln!(
            output,
            "{}:{}:{}:{}:{}:{}:excl:{}",
            kernel.map_or("-", |k| &k.zoneid),
            entry.zonename,
            kernel.map_or(&entry.state, |k| &k.state),
            entry.zonepath.replace(':', "\\:"),
            entry.uuid,
            entry.brand,
            entry.debugid,
        );
    }
    if one && output.is_empty() {
        let name = zonename.or(uuid).copied().unwrap_or_default();
        let error = format!("zoneadm: {name}: No such zone configured\n");
        return (output, error, 1);
    }
    (output, String::new(), 0)
}

fn zfs(state: &State, args: &[&str]) -> Answer {
    let usage = |what: &str| (String::new(), format!("zfs: {what}\n"), 2);
    let mut rest = args.iter();
    if rest.next() != Some(&"list") {
        return usage("only list is known here");
    }
    let (mut types, mut columns) = (vec!["filesystem", "volume"], vec!["name"]);
    let mut depth: Option<usize> = None;
    let mut operands = Vec::new();
    while let Some(arg) = rest.next() {
        match *arg {
            "-H" | "-p" | "-Hp" => {}
            "-r" => depth = Some(usize::MAX),
            "-d" => {
                let Some(n) = rest.next().and_then(|n| n.parse().ok()) else {
                    return usage("bad depth");
                };
                depth = Some(n);
            }
            "-t" => match rest.next() {
                Some(list) => types = list.split(',').collect(),
                None => return usage("missing argument for 't'"),
            },
            "-o" => match rest.next() {
                Some(list) => columns = list.split(',').collect(),
                None => return usage("missing argument for 'o'"),
            },
            option if option.starts_with('-') => {
                return usage(&format!("invalid option {option}"));
            }
            operand => operands.push(operand),
        }
    }
    let columns: Option<Vec<usize>> = columns
        .iter()
        .map(|name| COLUMNS[..17].iter().position(|c| c == name))
        .collect();
    let Some(columns) = columns else { return usage("bad property list") };

    // Depth counts components, and a snapshot is one more than its dataset.
    let depth_of = |name: &str| name.split(['/', '@']).count();
    let mut error = String::new();
    let mut chosen = BTreeSet::new();
    if operands.is_empty() {
        let most = depth.unwrap_or(usize::MAX);
        for (i, row) in state.datasets.iter().enumerate() {
            if depth_of(&row[0]) <= most.saturating_add(1) {
                chosen.insert(i);
            }
        }
    }
    for operand in operands {
        // Rows are sorted by name: what is below one follows it, somewhere.
        let Some(first) =
            state.datasets.iter().position(|row| row[0] == operand)
        else {
            let _ = writeln!(
                error,
                "cannot open '{operand}': dataset does not exist"
            );
            continue;
        };
        chosen.insert(first);
        let most = depth_of(operand).saturating_add(depth.unwrap_or(0));
        for (i, row) in state.datasets.iter().enumerate().skip(first + 1) {
            let Some(below) = row[0].strip_prefix(operand) else { continue };
            if below.starts_with(['/', '@']) && depth_of(&row[0]) <= most {
                chosen.insert(i);
            }
        }
    }
    let mut output = String::new();
    for i in chosen {
        let row = &state.datasets[i];
        if !types.contains(&row[column("type")].as_str()) {
            continue;
        }
        let fields: Vec<_> = columns.iter().map(|c| row[*c].as_str()).collect();
        let _ = writeln!(output, "{}", fields.join("\t"));
    }
    let exit = i32::from(!error.is_empty());
    (output, error, exit)
}

fn kstat(state: &State, args: &[&str]) -> Answer {
    let mut json = false;
    let mut instance = None;
    let mut statistics: Option<Vec<&str>> = None;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match *arg {
            "-p" => json = false,
            "-j" => json = true,
            "-m" | "-c" => {
                let _ = rest.next();
            }
            "-i" => instance = rest.next(),
            // Of patterns, only the form /^(a|b)$/.
            "-s" => {
                statistics = rest.next().map(|s| {
                    s.trim_start_matches("/^(")
                        .trim_end_matches(")$/")
                        .split('|')
                        .collect()
                });
            }
            other => {
                let error = format!("kstat: unknown argument {other}\n");
                return (String::new(), error, 2);
            }
        }
    }
    let mut records = Vec::new();
    for (zonename, zone) in &state.kernel {
        if zone.boot_time.is_empty()
            || instance.is_some_and(|i| *i != zone.zoneid)
        {
            continue;
        }
        // Names of kstats have at most 30 bytes.
        let name = &zonename[..zonename.len().min(30)];
        let mut values = vec![
            ("avenrun_1min", "7".to_string()),
            ("boot_time", zone.boot_time.clone()),
            ("class", "zone_misc".to_string()),
            ("crtime", "5012.662217461".to_string()),
            ("init_pid", zone.init_pid.to_string()),
            ("init_restarts", zone.init_restarts.to_string()),
            ("nsec_user", "2210887101".to_string()),
            ("snaptime", "9120.110045120".to_string()),
            ("zonename", zonename.clone()),
        ];
        values.retain(|(name, _)| {
            statistics.as_ref().is_none_or(|s| s.contains(name))
        });
        records.push((zone.zoneid.clone(), name.to_string(), values));
    }
    let exit = i32::from(records.is_empty());
    let mut output = String::new();
    if json {
        let bodies: Vec<_> = records
            .iter()
            .map(|(instance, name, values)| {
                let data: Vec<_> = values
                    .iter()
                    .filter(|(name, _)| *name != "class")
                    .map(|(name, value)| match *name {
                        "zonename" => format!("\t\t\"{name}\": \"{value}\""),
                        _ => format!("\t\t\"{name}\": {value}"),
                    })
                    .collect();
                format!(
                    "{{\n\t\"module\": \"zones\",\n\t\"instance\": \
                     {instance},\n\t\"name\": \"{name}\",\n\t\"class\": \
                     \"zone_misc\",\n\t\"type\": 1,\n\t\"snaptime\": 0,\n\t\
                     \"data\": {{\n{}\n\t}}\n}}",
                    data.join(",\n")
                )
            })
            .collect();
        let _ = writeln!(output, "[{}]", bodies.join(", "));
    } else {
        for (instance, name, values) in records {
            for (statistic, value) in values {
                let _ = writeln!(
                    output,
                    "zones:{instance}:{name}:{statistic}\t{value}"
                );
            }
        }
    }
    (output, String::new(), exit)
}

fn sysevent(root: &Path, args: &[&str]) -> io::Result<i32> {
    let channel = if args.contains(&"com.sun:zones:status") {
        Channel::Zone
    } else if args.contains(&"EC_zfs") {
        Channel::Zfs
    } else {
        eprintln!("sysevent: only what vminfod subscribes to is known here");
        return Ok(1);
    };
    let name = format!("sysevent-{}-start", channel.name());
    let hurt = hurt::take(root, &name);
    match hurt {
        Some(hurt::Fault::Fail(text)) => {
            eprintln!("sysevent: {text}");
            return Ok(1);
        }
        Some(hurt::Fault::Hang) => loop {
            std::thread::park();
        },
        _ => {}
    }
    let pid = std::process::id();
    let path = root.join(format!("sim/sub/{pid}.{}", channel.name()));
    std::fs::create_dir_all(root.join("sim/sub"))?;
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path)?;
    let mut stdout = io::stdout().lock();
    if args.iter().any(|a| a.starts_with('-') && a.contains('r')) {
        let date = iso_now();
        writeln!(stdout, "{{\"date\":\"{date}\",\"type\":\"ready\"}}")?;
        stdout.flush()?;
    }
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = socket.recv(&mut buffer)?;
        let message = &buffer[..n];
        if message == DIE {
            let _ = std::fs::remove_file(&path);
            return Ok(1);
        }
        let result = if message.first() == Some(&RAW) {
            stdout.write_all(&message[1..])
        } else {
            write!(stdout, "{{\"date\":\"{}\",", iso_now()).and_then(|()| {
                stdout.write_all(message)?;
                stdout.write_all(b"\n")
            })
        };
        if result.and_then(|()| stdout.flush()).is_err() {
            // The reader has gone.
            let _ = std::fs::remove_file(&path);
            return Ok(1);
        }
    }
}

/// The time of day as sysevent(8) prints it.
fn iso_now() -> String {
    let ms = crate::emit::now_ns() / 1_000_000;
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 0000-03-01, by the Gregorian cycle of 400 years.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524
        - day_of_era / 146_096)
        / 365;
    let day_of_year =
        day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = year_of_era + era * 400 + u128::from(month <= 2);
    let (s, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}
