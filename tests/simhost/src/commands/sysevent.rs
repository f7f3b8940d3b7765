//! sysevent(8), with the subscriptions that the daemon makes. A thread receives
//! records as they are published; they wait in this process until the reader of
//! standard output takes them.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::emit::{
    Channel, DIE, RAW, STALL, SUBSCRIBERS_MAX, iso_now, socket_path,
    subscriber_count, undelivered_path,
};
use crate::hurt;

/// Records that wait for the reader.
struct Waiting {
    records: Mutex<VecDeque<Vec<u8>>>,
    come: Condvar,
    /// The file in which the publisher reads how many records wait.
    count: Option<PathBuf>,
}

impl Waiting {
    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<Vec<u8>>) -> T) -> T {
        let mut records =
            self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut records);
        if let Some(count) = &self.count {
            let _ = fs::write(count, records.len().to_string());
        }
        result
    }

    fn next(&self) -> Vec<u8> {
        let mut records =
            self.records.lock().unwrap_or_else(PoisonError::into_inner);
        while records.is_empty() {
            records =
                self.come.wait(records).unwrap_or_else(PoisonError::into_inner);
        }
        records.front().cloned().unwrap_or_default()
    }
}

/// Runs sysevent until it is killed, or its reader is gone.
///
/// # Errors
/// If its socket fails.
pub fn run(root: &Path, args: &[&str]) -> io::Result<i32> {
    let channel = if args.contains(&"com.sun:zones:status") {
        Channel::Zone
    } else if args.contains(&"-c") {
        eprintln!("sysevent: sysevent_evc_bind: No such file or directory");
        return Ok(1);
    } else if args.contains(&"EC_zfs") {
        Channel::Zfs
    } else {
        eprintln!("sysevent: only what vminfod subscribes to is known here");
        return Ok(1);
    };
    let name = format!("sysevent-{}-start", channel.name());
    match hurt::take(root, &name) {
        Some(hurt::Fault::Fail(text)) => {
            eprintln!("sysevent: {text}");
            return Ok(1);
        }
        Some(hurt::Fault::Hang) => loop {
            std::thread::park();
        },
        _ => {}
    }
    fs::create_dir_all(root.join("sim/sub"))?;
    let is_zone = channel == Channel::Zone;
    if is_zone && subscriber_count(root, channel) >= SUBSCRIBERS_MAX {
        eprintln!("sysevent: sysevent_evc_subscribe: Not enough space");
        return Ok(2);
    }
    let pid = std::process::id();
    let path = socket_path(root, channel, pid);
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path)?;
    // SAFETY: the default action of a signal has no preconditions. Once the
    // reader is gone, the next record kills the process, as on the platform.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let mut stdout = io::stdout().lock();
    if args.iter().any(|a| a.starts_with('-') && a.contains('r')) {
        let date = iso_now();
        writeln!(stdout, "{{\"date\":\"{date}\",\"type\":\"ready\"}}")?;
        stdout.flush()?;
    }
    let waiting = Arc::new(Waiting {
        records: Mutex::default(),
        come: Condvar::new(),
        count: is_zone.then(|| undelivered_path(root, pid)),
    });
    std::thread::spawn({
        let waiting = Arc::clone(&waiting);
        move || take_records(&socket, &waiting)
    });
    loop {
        let record = waiting.next();
        if record == DIE {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(undelivered_path(root, pid));
            return Ok(1);
        }
        if record == STALL {
            loop {
                std::thread::park();
            }
        }
        if record.first() == Some(&RAW) {
            stdout.write_all(&record[1..])?;
        } else {
            write!(stdout, "{{\"date\":\"{}\",", iso_now())?;
            stdout.write_all(&record)?;
            stdout.write_all(b"\n")?;
        }
        stdout.flush()?;
        // A record counts as waiting until it has been delivered.
        waiting.change(|records| drop(records.pop_front()));
    }
}

fn take_records(socket: &UnixDatagram, waiting: &Waiting) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n) = socket.recv(&mut buffer) {
        let record = buffer[..n].to_vec();
        waiting.change(|records| records.push_back(record));
        waiting.come.notify_one();
    }
}
