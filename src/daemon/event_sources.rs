//! Starts the threads that read events.

use std::io;
use std::sync::Arc;

use crate::settings::Settings;
use crate::source::EventSource;
use crate::threads::{Stop, Threads};
use crate::watch::files::FileWatcher;
use crate::watch::sysevent::Reader;
use crate::watch::{self, Sink};

/// Starts the sources of events: zones, ZFS and files.
pub fn start_sources(
    settings: &Settings,
    sinks: [Sink; EventSource::COUNT],
    threads: &Threads,
    stop: &Stop,
) -> io::Result<Arc<FileWatcher>> {
    let sink_of = |source| sinks[source as usize].clone();
    for stream in watch::sysevent_streams(&settings.paths) {
        let name = format!("{}-events", stream.source.name());
        let (sink, times) = (sink_of(stream.source), settings.sources.clone());
        let reader = Reader::new(stream, sink, times, stop.clone());
        threads.spawn(&name, move || reader.run())?;
    }
    let (paths, sink) = (settings.paths.clone(), sink_of(EventSource::File));
    let files = FileWatcher::new(paths, sink, stop.clone())?;
    threads.spawn("file-events", {
        let files = Arc::clone(&files);
        move || {
            if let Err(e) = files.run() {
                // A restart is better than serving old data.
                panic!("can't receive file events any more: {e}");
            }
        }
    })?;
    threads.spawn("file-poll", {
        let files = Arc::clone(&files);
        let times = &settings.sources;
        let (every, rearm) = (times.poll_time, times.rearm_time);
        move || files.poll(every, rearm)
    })?;
    Ok(files)
}
