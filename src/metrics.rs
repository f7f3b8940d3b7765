//! Metrics for Prometheus: counters and histograms by label, and the text in
//! which they are served.

use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

/// The upper bounds of the buckets of every histogram, in seconds.
const BUCKETS: [f64; 16] = [
    0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 5.0, 10.0,
    20.0, 30.0, 60.0, 120.0,
];

/// The most combinations of labels by which one thing is counted. Further ones
/// are counted under the label [`OTHER`].
const LABELS_MAX: usize = 200;

/// See [`LABELS_MAX`].
const OTHER: &str = "other";

/// Label values, in the order of the labels' names.
pub type Labels = [String];

/// A histogram of times.
#[derive(Debug, Default)]
struct Histogram {
    /// A count for each bucket, and one for times past the last bucket.
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

/// Counts by label.
#[derive(Debug, Default)]
pub struct Counts {
    by_labels: Mutex<ByLabels<u64>>,
}

impl Counts {
    /// Adds one to the count of these labels.
    pub fn add(&self, labels: &[&str]) {
        *self.by_labels.lock().entry(labels) += 1;
    }

    /// Shows the count of these labels from now on, even while it is 0.
    pub fn begin(&self, labels: &[&str]) {
        self.by_labels.lock().entry(labels);
    }

    /// All counts with their labels.
    #[must_use]
    pub fn all(&self) -> Vec<(Vec<String>, u64)> {
        self.by_labels.lock().0.clone()
    }
}

/// Times by label.
#[derive(Debug, Default)]
pub struct Times {
    by_labels: Mutex<ByLabels<Histogram>>,
}

impl Times {
    /// Counts something that took `time`.
    pub fn add(&self, labels: &[&str], time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BUCKETS.iter().position(|end| seconds <= *end);
        let mut times = self.by_labels.lock();
        let histogram = times.entry(labels);
        histogram.counts[at.unwrap_or(BUCKETS.len())] += 1;
        histogram.sum += time;
    }
}

/// Values by labels, sorted by the labels. Every request looks for its own with
/// a lock held, so the search allocates nothing.
#[derive(Debug, Default)]
struct ByLabels<T>(Vec<(Vec<String>, T)>);

impl<T: Default> ByLabels<T> {
    fn find(&self, labels: &[&str]) -> Result<usize, usize> {
        self.0.binary_search_by(|(own, _)| {
            own.iter().map(String::as_str).cmp(labels.iter().copied())
        })
    }

    fn entry(&mut self, labels: &[&str]) -> &mut T {
        let others;
        let (labels, at) = match self.find(labels) {
            Err(_) if self.0.len() >= LABELS_MAX => {
                others = vec![OTHER; labels.len()];
                (others.as_slice(), self.find(&others))
            }
            at => (labels, at),
        };
        let at = at.unwrap_or_else(|at| {
            let own = labels.iter().map(ToString::to_string).collect();
            self.0.insert(at, (own, T::default()));
            at
        });
        &mut self.0[at].1
    }
}

/// The page that Prometheus reads, in its text format.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

impl Page {
    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}");
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
    }

    /// A value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.begin(name, "gauge", help);
        self.sample(name, &[], &[], value);
    }

    /// A count that only goes up.
    #[allow(clippy::cast_precision_loss)]
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, "counter", help);
        self.sample(name, &[], &[], value as f64);
    }

    /// Values that go up and down, by labels with these names.
    pub fn gauges(
        &mut self,
        name: &str,
        help: &str,
        names: &[&str],
        values: impl IntoIterator<Item = (Vec<String>, f64)>,
    ) {
        self.begin(name, "gauge", help);
        for (labels, value) in values {
            self.sample(name, names, &labels, value);
        }
    }

    /// Counts that only go up, by labels with these names.
    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        names: &[&str],
        values: impl IntoIterator<Item = (Vec<String>, f64)>,
    ) {
        self.begin(name, "counter", help);
        for (labels, value) in values {
            self.sample(name, names, &labels, value);
        }
    }

    /// Counts by labels with these names.
    #[allow(clippy::cast_precision_loss)]
    pub fn counts(
        &mut self,
        name: &str,
        help: &str,
        names: &[&str],
        counts: &Counts,
    ) {
        let all = counts.all().into_iter().map(|(l, n)| (l, n as f64));
        self.counters(name, help, names, all);
    }

    /// Times by labels with these names.
    #[allow(clippy::cast_precision_loss)]
    pub fn times(
        &mut self,
        name: &str,
        help: &str,
        names: &[&str],
        times: &Times,
    ) {
        self.begin(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut bucket_names = names.to_vec();
        bucket_names.push("le");
        for (labels, histogram) in &times.by_labels.lock().0 {
            let mut all = 0;
            for (i, count) in histogram.counts.iter().enumerate() {
                all += count;
                let end = BUCKETS.get(i).map(f64::to_string);
                let mut labels = labels.clone();
                labels.push(end.unwrap_or_else(|| "+Inf".to_string()));
                self.sample(&bucket, &bucket_names, &labels, all as f64);
            }
            let sum = histogram.sum.as_secs_f64();
            self.sample(&format!("{name}_sum"), names, labels, sum);
            self.sample(&format!("{name}_count"), names, labels, all as f64);
        }
    }

    fn sample(
        &mut self,
        name: &str,
        names: &[&str],
        labels: &Labels,
        value: f64,
    ) {
        self.text += name;
        for (i, (name, label)) in names.iter().zip(labels).enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let label = label
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            let _ = write!(self.text, "{before}{name}=\"{label}\"");
        }
        if !names.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_gauges_are_written_by_label() {
        let counts = Counts::default();
        counts.add(&["a", "x\"\\\n"]);
        counts.add(&["a", "x\"\\\n"]);
        let mut page = Page::default();
        page.counts("c_total", "What.", &["one", "two"], &counts);
        page.gauge("g", "How.", 0.5);
        assert_eq!(
            page.into_text(),
            "# HELP c_total What.\n# TYPE c_total counter\n\
             c_total{one=\"a\",two=\"x\\\"\\\\\\n\"} 2\n\
             # HELP g How.\n# TYPE g gauge\ng 0.5\n"
        );
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let times = Times::default();
        for ms in [0, 2, 2, 999_000] {
            times.add(&["a"], Duration::from_millis(ms));
        }
        let mut page = Page::default();
        page.times("t_seconds", "T.", &["k"], &times);
        let text = page.into_text();
        for line in [
            "t_seconds_bucket{k=\"a\",le=\"0.0001\"} 1",
            "t_seconds_bucket{k=\"a\",le=\"0.001\"} 1",
            "t_seconds_bucket{k=\"a\",le=\"0.003\"} 3",
            "t_seconds_bucket{k=\"a\",le=\"120\"} 3",
            "t_seconds_bucket{k=\"a\",le=\"+Inf\"} 4",
            "t_seconds_sum{k=\"a\"} 999.004",
            "t_seconds_count{k=\"a\"} 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }

    #[test]
    fn label_combinations_are_limited() {
        let counts = Counts::default();
        for n in 0..LABELS_MAX + 5 {
            counts.add(&[&n.to_string()]);
        }
        let all = counts.all();
        assert_eq!(all.len(), LABELS_MAX + 1);
        assert!(all.is_sorted());
        assert!(all.contains(&(vec![OTHER.to_string()], 5)));
    }
}
