//! Plots as SVG: a cost against the number of VMs, both logarithmic.

use std::fmt::Write as _;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 50.0;

/// Plots points, which are (VMs, cost), and the goal that they must be below.
/// Points whose cost was too small to be measured are left out, because they
/// have no place on a logarithmic scale.
pub fn plot(
    title: &str,
    points: &[(f64, f64)],
    goal: Option<(&str, &dyn Fn(f64) -> f64)>,
) -> String {
    let points: Vec<_> = points.iter().filter(|(_, y)| *y > 0.0).collect();
    let at_goal = |x: f64| goal.map(|(_, goal)| goal(x));
    let values = points.iter().map(|(_, y)| *y);
    let goals = points.iter().filter_map(|(x, _)| at_goal(*x));
    let all: Vec<f64> = values.chain(goals).map(f64::log10).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min).floor();
    let low = if low.is_finite() { low } else { 0.0 };
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil();
    let high = if high > low { high } else { low + 1.0 };
    let xs: Vec<f64> = points.iter().map(|(x, _)| x.log10()).collect();
    let (left, right) = match (xs.first(), xs.last()) {
        (Some(first), Some(last)) if last > first => (*first, *last),
        _ => (0.0, 1.0),
    };
    let place = |x: f64, y: f64| {
        let x = (x.log10() - left) / (right - left);
        let y = (y.log10() - low) / (high - low);
        let (width, height) = (WIDTH - 2.0 * MARGIN, HEIGHT - 2.0 * MARGIN);
        (MARGIN + x * width, HEIGHT - MARGIN - y * height)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"20\" text-anchor=\"middle\" font-size=\"13\">\
         {title}</text>\n",
        WIDTH / 2.0
    );
    let mut tick = low;
    while tick <= high {
        let (_, y) = place(1.0, 10_f64.powf(tick));
        let _ = writeln!(
            svg,
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
             stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            WIDTH - MARGIN,
            MARGIN - 5.0,
            y + 4.0,
            10_f64.powf(tick)
        );
        tick += 1.0;
    }
    for (x, y) in &points {
        let (x_at, y_at) = place(*x, *y);
        let _ = writeln!(
            svg,
            "<circle cx=\"{x_at:.1}\" cy=\"{y_at:.1}\" r=\"3\" \
             fill=\"#15c\"/><text x=\"{x_at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{x}</text>",
            HEIGHT - MARGIN + 16.0
        );
    }
    let line = |at: &dyn Fn(f64, f64) -> f64| {
        let points = points.iter().map(|(x, y)| {
            let (x, y) = place(*x, at(*x, *y));
            format!("{x:.1},{y:.1}")
        });
        points.collect::<Vec<_>>().join(" ")
    };
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#15c\"/>",
        line(&|_, y| y)
    );
    if let Some((name, goal)) = goal {
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#c33\" \
             stroke-dasharray=\"4\"/><text x=\"{}\" y=\"36\" \
             text-anchor=\"middle\" fill=\"#c33\">- - {name}</text>",
            line(&|x, _| goal(x)),
            WIDTH / 2.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">VMs</text>\n</svg>",
        WIDTH / 2.0,
        HEIGHT - 12.0
    );
    svg
}
