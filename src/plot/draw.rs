//! The layout of a chart: title, legend, plot, axes and notes, from the top down.
//!
//! Every text is measured before anything is placed. The legend stands above the plot, where it can cover
//! no point, and wraps like text.

use super::axis::{Range, Scale, Tick};
use super::canvas::{Anchor, Canvas, Ink};
use super::text::{CAP_HEIGHT, DESCENT, width, wrap};
use super::{Chart, Mark, PlotError, Series};

/// Okabe and Ito (2008) without yellow, which is too light for lines on white.
const COLOURS: [[u8; 3]; 7] = [
    [0, 114, 178],
    [213, 94, 0],
    [0, 158, 115],
    [204, 121, 167],
    [230, 159, 0],
    [86, 180, 233],
    [0, 0, 0],
];
const TEXT: Ink = Ink::solid([30, 30, 30]);
const NOTE: Ink = Ink::solid([70, 70, 70]);
const FRAME: Ink = Ink::solid([60, 60, 60]);
const GRID: Ink = Ink::solid([222, 222, 222]);
const MINOR_GRID: Ink = Ink::solid([242, 242, 242]);
const WHITE: Ink = Ink::solid([255, 255, 255]);
const REFERENCE: Ink = Ink::solid([120, 120, 120]);
const BAND_OPACITY: f64 = 0.18;

const TITLE_SIZE: f64 = 44.0;
const LABEL_SIZE: f64 = 42.0;
const TICK_SIZE: f64 = 38.0;
const LEGEND_SIZE: f64 = 36.0;
const NOTE_SIZE: f64 = 31.0;
const MARGIN: f64 = 28.0;
const TICK_LENGTH: f64 = 12.0;
const LINE_WIDTH: f64 = 5.0;
const MARK_RADIUS: f64 = 11.0;
/// Radius in charts of more than 80 points, which would hide one another.
const SMALL_MARK_RADIUS: f64 = 7.0;
const SAMPLE_WIDTH: f64 = 64.0;

struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: Range,
    y: Range,
}

impl Frame {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (self.across(x), self.up(y))
    }

    fn across(&self, x: f64) -> f64 {
        self.left + self.x.share(x) * (self.right - self.left)
    }

    fn up(&self, y: f64) -> f64 {
        self.bottom - self.y.share(y) * (self.bottom - self.top)
    }

    fn contains(&self, (x, y): (f64, f64)) -> bool {
        (self.left..=self.right).contains(&x) && (self.top..=self.bottom).contains(&y)
    }
}

/// A legend entry: what is sampled, and its name.
enum Entry<'a> {
    Series(usize, &'a Series),
    Band(&'a str),
    HeldOut,
    Reference(&'a str),
}

impl Entry<'_> {
    fn label(&self) -> &str {
        match self {
            Entry::Series(_, series) => &series.label,
            Entry::Band(label) | Entry::Reference(label) => label,
            Entry::HeldOut => "held out",
        }
    }
}

/// Draws `chart` on a canvas of `width` x `height` pixels.
pub(super) fn draw(
    chart: &Chart,
    canvas: &mut impl Canvas,
    full_width: f64,
    full_height: f64,
) -> Result<(), PlotError> {
    let (x, y) = ranges(chart)?;
    let (y_ticks, y_minor) = y.ticks(6);
    let y_tick_width = y_ticks
        .iter()
        .map(|t| width(&t.label, TICK_SIZE))
        .fold(0.0, f64::max);
    let left = MARGIN + LABEL_SIZE + 14.0 + y_tick_width + TICK_LENGTH + 8.0;
    let right = full_width - MARGIN - 14.0;

    let mut top = MARGIN;
    if !chart.title.is_empty() {
        for line in wrap(&chart.title, TITLE_SIZE, full_width - 2.0 * MARGIN) {
            let baseline = (0.5 * full_width, top + TITLE_SIZE * CAP_HEIGHT);
            canvas.text(baseline, &line, TITLE_SIZE, TEXT, Anchor::Middle, false);
            top += 1.25 * TITLE_SIZE;
        }
    }
    top = legend(chart, canvas, left, right, top + 6.0);

    let mut bottom = full_height - MARGIN;
    let notes: Vec<String> = chart
        .notes
        .iter()
        .flat_map(|n| wrap(n, NOTE_SIZE, full_width - 2.0 * MARGIN))
        .collect();
    bottom -= NOTE_SIZE * DESCENT * f64::from(u8::from(!notes.is_empty()));
    for line in notes.iter().rev() {
        canvas.text(
            (MARGIN, bottom),
            line,
            NOTE_SIZE,
            NOTE,
            Anchor::Start,
            false,
        );
        bottom -= 1.3 * NOTE_SIZE;
    }
    let label_baseline = bottom - LABEL_SIZE * DESCENT;
    bottom = label_baseline - LABEL_SIZE - 8.0 - TICK_SIZE - TICK_LENGTH;

    let frame = Frame {
        left,
        right,
        top,
        bottom,
        x,
        y,
    };
    axes(chart, canvas, &frame, (&y_ticks, &y_minor));
    let middle = 0.5 * (left + right);
    canvas.text(
        (middle, label_baseline),
        &chart.x.label,
        LABEL_SIZE,
        TEXT,
        Anchor::Middle,
        false,
    );
    let beside = (MARGIN + LABEL_SIZE * CAP_HEIGHT, 0.5 * (top + bottom));
    canvas.text(
        beside,
        &chart.y.label,
        LABEL_SIZE,
        TEXT,
        Anchor::Middle,
        true,
    );
    contents(chart, canvas, &frame);
    Ok(())
}

fn ranges(chart: &Chart) -> Result<(Range, Range), PlotError> {
    let check = |series: &Series, axis: &'static str, scale: Scale, value: f64| {
        if value.is_finite() && (scale == Scale::Linear || value > 0.0) {
            Ok(())
        } else {
            let (title, series) = (chart.title.clone(), series.label.clone());
            Err(PlotError::Coordinate {
                title,
                series,
                axis,
                value,
            })
        }
    };
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for series in &chart.series {
        let points = series.points.iter().map(|p| (p.x, p.y));
        for (x, y) in points.chain(series.line.iter().copied()) {
            check(series, "x", chart.x.scale, x)?;
            check(series, "y", chart.y.scale, y)?;
            xs.push(x);
            ys.push(y);
        }
        // Bars and bands widen the picture as far as they have a place in it; the rest is cut off.
        let ends = series.points.iter().filter_map(|p| p.error).flatten();
        ys.extend(ends.filter(|y| y.is_finite() && (chart.y.scale == Scale::Linear || *y > 0.0)));
    }
    ys.extend(chart.reference.iter().map(|(height, _)| *height));
    let empty = || PlotError::Empty {
        title: chart.title.clone(),
    };
    let x = Range::around(chart.x.scale, xs.into_iter()).ok_or_else(empty)?;
    let y = Range::around(chart.y.scale, ys.into_iter()).ok_or_else(empty)?;
    Ok((x, y))
}

/// Draws the legend below `top` and returns where it ends.
fn legend(chart: &Chart, canvas: &mut impl Canvas, left: f64, right: f64, top: f64) -> f64 {
    let mut entries: Vec<Entry> = (chart.series.iter().enumerate())
        .filter(|(_, series)| !series.label.is_empty())
        .map(|(index, series)| Entry::Series(index, series))
        .collect();
    if chart.series.iter().any(|s| !s.band.is_empty()) {
        entries.push(Entry::Band(&chart.band_label));
    }
    if chart
        .series
        .iter()
        .any(|s| s.points.iter().any(|p| p.held_out))
    {
        entries.push(Entry::HeldOut);
    }
    let reference = chart.reference.iter().filter(|(_, name)| !name.is_empty());
    entries.extend(reference.map(|(_, name)| Entry::Reference(name)));
    if entries.is_empty() {
        return top;
    }
    let gap = 40.0;
    let line_height = 1.4 * LEGEND_SIZE;
    let widths: Vec<f64> = entries
        .iter()
        .map(|e| SAMPLE_WIDTH + 14.0 + width(e.label(), LEGEND_SIZE))
        .collect();
    // As many equal columns as fit, so that entries of several lines stand below one another.
    let widest = widths.iter().fold(0.0_f64, |m, w| m.max(*w)) + gap;
    let one_line = widths.iter().sum::<f64>() + gap * (widths.len() - 1) as f64 <= right - left;
    let columns = (((right - left + gap) / widest) as usize).clamp(1, entries.len());
    let mut place = (left, top + 0.5 * line_height);
    for (index, entry) in entries.iter().enumerate() {
        if !one_line {
            let (row, column) = (index / columns, index % columns);
            place = (
                left + column as f64 * widest,
                top + (row as f64 + 0.5) * line_height,
            );
        }
        sample(canvas, entry, place);
        let at = (
            place.0 + SAMPLE_WIDTH + 14.0,
            place.1 + 0.5 * CAP_HEIGHT * LEGEND_SIZE,
        );
        canvas.text(at, entry.label(), LEGEND_SIZE, TEXT, Anchor::Start, false);
        place.0 += widths[index] + gap;
    }
    let rows = if one_line {
        1
    } else {
        entries.len().div_ceil(columns)
    };
    top + rows as f64 * line_height + 14.0
}

fn sample(canvas: &mut impl Canvas, entry: &Entry, (x, y): (f64, f64)) {
    let end = (x + SAMPLE_WIDTH, y);
    let middle = (x + 0.5 * SAMPLE_WIDTH, y);
    match entry {
        Entry::Series(index, series) => {
            if !series.line.is_empty() {
                canvas.polyline(
                    &[(x, y), end],
                    LINE_WIDTH,
                    ink(*index, series),
                    dash(series),
                );
            }
            if !series.points.is_empty() {
                let hollow = series.points.iter().all(|p| p.held_out);
                let shape = Shape {
                    index: *index,
                    radius: MARK_RADIUS,
                    ink: ink(*index, series),
                };
                mark(canvas, middle, &shape, hollow);
            }
        }
        Entry::Band(_) => {
            let swatch = [
                (x, y - 15.0),
                (end.0, y - 15.0),
                (end.0, y + 15.0),
                (x, y + 15.0),
            ];
            canvas.polygon(
                &swatch,
                Ink {
                    rgb: [90, 90, 90],
                    alpha: 1.5 * BAND_OPACITY,
                },
            );
        }
        Entry::HeldOut => {
            canvas.disc(middle, MARK_RADIUS + 1.0, REFERENCE);
            canvas.disc(middle, MARK_RADIUS - 4.0, WHITE);
        }
        Entry::Reference(_) => canvas.polyline(&[(x, y), end], 3.0, REFERENCE, Some([4.0, 8.0])),
    }
}

fn ink(index: usize, series: &Series) -> Ink {
    if series.neutral {
        TEXT
    } else {
        Ink::solid(COLOURS[index % COLOURS.len()])
    }
}

fn dash(series: &Series) -> Option<[f64; 2]> {
    series.dashed.then_some([18.0, 11.0])
}

struct Shape {
    index: usize,
    radius: f64,
    ink: Ink,
}

/// The mark of a series: its shape repeats only after its colour has changed.
fn mark(canvas: &mut impl Canvas, (x, y): (f64, f64), shape: &Shape, hollow: bool) {
    let Shape { index, radius, ink } = *shape;
    let outline = |scale: f64| -> Vec<(f64, f64)> {
        let r = radius * scale;
        let corners: &[(f64, f64)] = match index % 5 {
            1 => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            2 => &[(0.0, -1.25), (1.15, 0.85), (-1.15, 0.85)],
            3 => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            _ => &[(0.0, 1.25), (1.15, -0.85), (-1.15, -0.85)],
        };
        corners
            .iter()
            .map(|(dx, dy)| (x + r * dx, y + r * dy))
            .collect()
    };
    let mut fill = |scale: f64, ink: Ink| {
        if index.is_multiple_of(5) {
            canvas.disc((x, y), radius * scale, ink);
        } else {
            canvas.polygon(&outline(scale), ink);
        }
    };
    // A white rim keeps marks apart where they overlap.
    fill(1.25, WHITE);
    fill(1.05, ink);
    if hollow {
        fill(0.55, WHITE);
    }
}

fn axes(chart: &Chart, canvas: &mut impl Canvas, frame: &Frame, y_ticks: (&[Tick], &[f64])) {
    let Frame {
        left,
        right,
        top,
        bottom,
        ..
    } = *frame;
    // Wide labels on the horizontal axis make room by being fewer.
    let (mut x_ticks, x_minor) = frame.x.ticks(8);
    for wanted in (2..8).rev() {
        let overlap = x_ticks.windows(2).any(|pair| {
            let apart = frame.across(pair[1].value) - frame.across(pair[0].value);
            let half = |t: &Tick| 0.5 * width(&t.label, TICK_SIZE);
            apart < half(&pair[0]) + half(&pair[1]) + 18.0
        });
        if !overlap {
            break;
        }
        x_ticks = frame.x.ticks(wanted).0;
    }
    let vertical = |canvas: &mut _, value: f64, ink: Ink| {
        let x = frame.across(value);
        Canvas::polyline(canvas, &[(x, top), (x, bottom)], 1.5, ink, None);
    };
    let horizontal = |canvas: &mut _, value: f64, ink: Ink| {
        let y = frame.up(value);
        Canvas::polyline(canvas, &[(left, y), (right, y)], 1.5, ink, None);
    };
    x_minor
        .iter()
        .for_each(|v| vertical(canvas, *v, MINOR_GRID));
    y_ticks
        .1
        .iter()
        .for_each(|v| horizontal(canvas, *v, MINOR_GRID));
    x_ticks.iter().for_each(|t| vertical(canvas, t.value, GRID));
    y_ticks
        .0
        .iter()
        .for_each(|t| horizontal(canvas, t.value, GRID));
    let corners = [
        (left, top),
        (right, top),
        (right, bottom),
        (left, bottom),
        (left, top),
    ];
    canvas.polyline(&corners, 2.0, FRAME, None);
    for tick in &x_ticks {
        let x = frame.across(tick.value);
        canvas.polyline(&[(x, bottom), (x, bottom + TICK_LENGTH)], 2.0, FRAME, None);
        // Labels at the very ends stay inside the picture.
        let half = 0.5 * width(&tick.label, TICK_SIZE);
        let x = x.min(right + MARGIN + 8.0 - half);
        let baseline = bottom + TICK_LENGTH + 6.0 + TICK_SIZE * 0.85;
        canvas.text(
            (x, baseline),
            &tick.label,
            TICK_SIZE,
            TEXT,
            Anchor::Middle,
            false,
        );
    }
    for tick in y_ticks.0 {
        let y = frame.up(tick.value);
        canvas.polyline(&[(left - TICK_LENGTH, y), (left, y)], 2.0, FRAME, None);
        let at = (left - TICK_LENGTH - 8.0, y + 0.5 * CAP_HEIGHT * TICK_SIZE);
        canvas.text(at, &tick.label, TICK_SIZE, TEXT, Anchor::End, false);
    }
    for (at, length) in x_minor
        .iter()
        .map(|v| (frame.across(*v), 0.5 * TICK_LENGTH))
    {
        canvas.polyline(&[(at, bottom), (at, bottom + length)], 1.5, FRAME, None);
    }
    for (at, length) in y_ticks.1.iter().map(|v| (frame.up(*v), 0.5 * TICK_LENGTH)) {
        canvas.polyline(&[(left - length, at), (left, at)], 1.5, FRAME, None);
    }
    if let Some((height, _)) = &chart.reference {
        let y = frame.up(*height);
        canvas.polyline(&[(left, y), (right, y)], 3.0, REFERENCE, Some([4.0, 8.0]));
    }
}

fn contents(chart: &Chart, canvas: &mut impl Canvas, frame: &Frame) {
    let count: usize = chart.series.iter().map(|series| series.points.len()).sum();
    let radius = if count > 80 {
        SMALL_MARK_RADIUS
    } else {
        MARK_RADIUS
    };
    for (index, series) in chart.series.iter().enumerate() {
        let band = band_outline(series, chart, frame);
        if band.len() > 2 {
            canvas.polygon(
                &band,
                Ink {
                    alpha: BAND_OPACITY,
                    ..ink(index, series)
                },
            );
        }
    }
    for (index, series) in chart.series.iter().enumerate() {
        let line: Vec<(f64, f64)> = series.line.iter().map(|(x, y)| frame.at(*x, *y)).collect();
        if line.len() > 1 {
            canvas.polyline(&line, LINE_WIDTH, ink(index, series), dash(series));
        }
    }
    for (index, series) in chart.series.iter().enumerate() {
        for point in &series.points {
            error_bar(canvas, frame, point, ink(index, series));
        }
        let shape = Shape {
            index,
            radius,
            ink: ink(index, series),
        };
        for point in &series.points {
            let at = frame.at(point.x, point.y);
            if frame.contains(at) {
                mark(canvas, at, &shape, point.held_out);
            }
        }
    }
}

/// The band as one polygon, cut off at the frame.
fn band_outline(series: &Series, chart: &Chart, frame: &Frame) -> Vec<(f64, f64)> {
    let place = |x: f64, y: f64, otherwise: f64| {
        let y = if y.is_nan() {
            otherwise
        } else if chart.y.scale == Scale::Log && y <= 0.0 {
            frame.bottom
        } else {
            frame.up(y)
        };
        (frame.across(x), y.clamp(frame.top, frame.bottom))
    };
    let inside = series
        .band
        .iter()
        .filter(|(x, ..)| (0.0..=1.0).contains(&frame.x.share(*x)));
    let upper = inside
        .clone()
        .map(|(x, _, high)| place(*x, *high, frame.top));
    let lower = inside
        .rev()
        .map(|(x, low, _)| place(*x, *low, frame.bottom));
    upper.chain(lower).collect()
}

fn error_bar(canvas: &mut impl Canvas, frame: &Frame, point: &Mark, ink: Ink) {
    let Some([low, high]) = point.error else {
        return;
    };
    let x = frame.across(point.x);
    let end = |y: f64| {
        let up = frame.up(y);
        if up.is_finite() {
            up.clamp(frame.top, frame.bottom)
        } else {
            frame.bottom
        }
    };
    let (low, high) = (end(low), end(high));
    canvas.polyline(&[(x, low), (x, high)], 3.0, ink, None);
    for y in [low, high] {
        canvas.polyline(&[(x - 9.0, y), (x + 9.0, y)], 3.0, ink, None);
    }
}
