//! Zones that share a directory.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::watch::channel;

/// A directory that goes when dropped.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_directory_that_two_zones_have_tells_both() {
    let name = format!("vminfod-files-{}", std::process::id());
    let root = Dir(std::env::temp_dir().join(name));
    let dir = root.0.join("zones/x");
    fs::create_dir_all(dir.join(CONFIG_DIR)).unwrap();
    let tags = dir.join(CONFIG_DIR).join(TAGS);
    fs::write(&tags, "{}").unwrap();
    let ([_, _, sink], events) = channel(1000);
    let watcher =
        Arc::new(FileWatcher::new(Paths::new(&root.0), sink).unwrap());
    let reader = std::thread::spawn({
        let watcher = Arc::clone(&watcher);
        move || watcher.run()
    });
    let told = |wanted: &[&str]| {
        let until = Instant::now() + Duration::from_secs(60);
        let mut missing: BTreeSet<_> = wanted.iter().copied().collect();
        while !missing.is_empty() {
            let event = events.next(Some(until)).unwrap().event;
            if let Event::File(change) = event
                && change.file == WatchedFile::Tags
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
    // What the one no longer has stays watched for the other.
    watcher.disarm("b");
    fs::write(&tags, "{\"k\":22}").unwrap();
    told(&["a"]);
    watcher.disarm("a");
    assert_eq!(watcher.count(), 0);
    watcher.stop();
    reader.join().unwrap().unwrap();
}
