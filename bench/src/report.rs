//! Figures: what was measured, what it is compared with, and whether it meets
//! its goal.

use std::fmt::Write as _;

use vminfod::vm::json::{Json, Object};

/// The goal of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this part of the floor.
    OfFloor(f64),
    /// No more than this many times the floor.
    TimesFloor(f64),
    /// No goal: it is only reported.
    None,
}

/// Measured values of one thing, one for each run.
#[derive(Clone, Debug)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The median.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this part of all values lies.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let at = (last as f64 * part).round() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    /// The least and the greatest value.
    pub fn range(&self) -> (f64, f64) {
        (self.quantile(0.0), self.quantile(1.0))
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The row of the table of goals to which it belongs.
    pub row: u8,
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// What was measured.
    pub samples: Samples,
    /// The name and the values of what it is compared with, measured in the
    /// same runs.
    pub floor: Option<(String, Samples)>,
    /// Its goal.
    pub goal: Goal,
}

impl Figure {
    /// A figure without floor or goal.
    pub fn new(
        row: u8,
        name: impl Into<String>,
        unit: &'static str,
        samples: Vec<f64>,
    ) -> Self {
        let (name, samples) = (name.into(), Samples(samples));
        Self { row, name, unit, samples, floor: None, goal: Goal::None }
    }

    /// Sets the goal.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    /// Sets what it is compared with.
    pub fn floor(mut self, name: &str, samples: Vec<f64>) -> Self {
        self.floor = Some((name.to_string(), Samples(samples)));
        self
    }

    fn ratio(&self) -> Option<f64> {
        let (_, floor) = self.floor.as_ref()?;
        Some(self.samples.median() / floor.median())
    }

    /// Whether it meets its goal, if it has one.
    pub fn is_good(&self) -> Option<bool> {
        let value = self.samples.median();
        match self.goal {
            Goal::AtMost(most) => Some(value <= most),
            Goal::OfFloor(part) => Some(self.ratio()? >= part),
            Goal::TimesFloor(times) => Some(self.ratio()? <= times),
            Goal::None => None,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::AtMost(most) => format!("≤ {}", number(most)),
            Goal::OfFloor(part) => format!("≥ {part} of floor"),
            Goal::TimesFloor(times) => format!("≤ {times} × floor"),
            Goal::None => String::new(),
        }
    }

    fn cells(&self) -> [String; 8] {
        let (least, most) = self.samples.range();
        let verdict = match self.is_good() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let floor = self.floor.as_ref();
        [
            self.row.to_string(),
            self.name.clone(),
            format!("{} {}", number(self.samples.median()), self.unit),
            format!("{} … {}", number(least), number(most)),
            floor.map_or_else(String::new, |(name, samples)| {
                format!("{} ({name})", number(samples.median()))
            }),
            self.ratio().map_or_else(String::new, |r| format!("{r:.2}")),
            self.goal_text(),
            verdict.to_string(),
        ]
    }

    /// As a JSON object.
    pub fn to_json(&self) -> Json {
        let list = |samples: &Samples| {
            let values: Vec<_> =
                samples.0.iter().map(|v| Json::from(*v)).collect();
            Json::from(values)
        };
        let mut object = Object::new();
        object.set("row", f64::from(self.row));
        object.set("name", self.name.as_str());
        object.set("unit", self.unit);
        object.set("median", self.samples.median());
        object.set("samples", list(&self.samples));
        if let Some((name, samples)) = &self.floor {
            let mut floor = Object::new();
            floor.set("name", name.as_str());
            floor.set("median", samples.median());
            floor.set("samples", list(samples));
            object.set("floor", floor);
        }
        object.set("goal", self.goal_text().as_str());
        if let Some(is_good) = self.is_good() {
            object.set("met", is_good);
        }
        Json::from(object)
    }
}

/// The value with three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        n if n >= 1e6 => format!("{:.2}M", value / 1e6),
        n if n >= 1e4 => format!("{:.1}k", value / 1e3),
        n if n >= 100.0 || n == 0.0 => format!("{value:.0}"),
        n if n >= 10.0 => format!("{value:.1}"),
        n if n >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// All figures as a table, in Markdown that reads well as text.
pub fn table(figures: &[Figure]) -> String {
    let head =
        ["row", "what", "median", "runs", "floor", "ratio", "goal", "met"];
    let mut rows = vec![head.map(String::from)];
    rows.extend(figures.iter().map(Figure::cells));
    let width = |column: usize| {
        rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for (n, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text += "|\n";
        if n == 0 {
            for width in &widths {
                text += &format!("|{}", "-".repeat(width + 2));
            }
            text += "|\n";
        }
    }
    text
}
