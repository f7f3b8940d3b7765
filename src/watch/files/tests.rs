//! Zones that share a directory, and a directory that is replaced.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::watch::channel;

/// A directory that is removed when this is dropped.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_change_in_a_directory_of_two_zones_is_reported_for_both() {
    let name = format!("vminfod-files-{}", std::process::id());
    let root = Dir(std::env::temp_dir().join(name));
    let dir = root.0.join("zones/x");
    fs::create_dir_all(dir.join(CONFIG_DIR)).unwrap();
    let tags = dir.join(CONFIG_DIR).join(Source::Tags.name());
    fs::write(&tags, "{}").unwrap();
    let stop = Stop::default();
    let ([.., sink], events) = channel(1000, &stop);
    let watcher =
        FileWatcher::new(Paths::new(&root.0), sink, stop.clone()).unwrap();
    let reader = std::thread::spawn({
        let watcher = Arc::clone(&watcher);
        move || watcher.run()
    });
    let told = |wanted: &[&str]| {
        let until = Instant::now() + Duration::from_secs(60);
        let mut missing: BTreeSet<_> = wanted.iter().copied().collect();
        while !missing.is_empty() {
            let event = events.next(Some(until)).unwrap().event;
            if let SourceEvent::File(change) = event
                && change.file == Source::Tags
            {
                let zonename = change.zonename.unwrap_or_default();
                missing.remove(&*zonename);
            }
        }
    };
    watcher.arm(&"a".into(), Some(&dir), false);
    watcher.arm(&"b".into(), Some(&dir), false);
    fs::write(&tags, "{\"k\":1}").unwrap();
    told(&["a", "b"]);
    // The files that zone b no longer has stay watched for zone a.
    watcher.disarm("b");
    fs::write(&tags, "{\"k\":22}").unwrap();
    told(&["a"]);
    watcher.disarm("a");
    assert_eq!(watcher.count(), 0);
    stop.set();
    reader.join().unwrap().unwrap();
}

#[test]
fn files_of_a_replaced_directory_are_watched_again() {
    let name = format!("vminfod-moved-{}", std::process::id());
    let root = Dir(std::env::temp_dir().join(name));
    let dir = root.0.join("zones/x");
    let (config, copy) = (dir.join(CONFIG_DIR), dir.join("copy"));
    let tags = config.join(Source::Tags.name());
    fs::create_dir_all(&config).unwrap();
    fs::write(&tags, "{}").unwrap();
    let stop = Stop::default();
    let ([.., sink], events) = channel(1000, &stop);
    let watcher =
        FileWatcher::new(Paths::new(&root.0), sink, stop.clone()).unwrap();
    // As cp -al does it.
    fs::create_dir(&copy).unwrap();
    fs::hard_link(&tags, copy.join(Source::Tags.name())).unwrap();
    watcher.arm(&"a".into(), Some(&dir), false);
    // No thread reads events yet, so that `arm` is the first to notice.
    fs::rename(&config, dir.join("old")).unwrap();
    fs::rename(&copy, &config).unwrap();
    watcher.arm(&"a".into(), Some(&dir), true);
    let reader = std::thread::spawn({
        let watcher = Arc::clone(&watcher);
        move || watcher.run()
    });
    let next_of_tags = || loop {
        let until = Instant::now() + Duration::from_secs(60);
        if let SourceEvent::File(change) =
            events.next(Some(until)).unwrap().event
            && change.file == Source::Tags
        {
            return;
        }
    };
    fs::write(dir.join("new"), "{\"k\":1}").unwrap();
    fs::rename(dir.join("new"), &tags).unwrap();
    next_of_tags();
    stop.set();
    reader.join().unwrap().unwrap();
}
