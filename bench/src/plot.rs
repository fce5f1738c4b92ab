//! The plots, as SVG: they need no font to be drawn.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::full_palette::{BLUE_700, GREY_600, ORANGE_700};

use crate::figure::Curve;
use crate::rows::{Figure, Row, number};

const WIDTH: u32 = 960;
const FONT: &str = "sans-serif";
const COLOURS: [RGBColor; 7] = [
    RGBColor(31, 119, 180),
    RGBColor(255, 127, 14),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(140, 86, 75),
    RGBColor(90, 90, 90),
];

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

/// A bar a comparison, logarithmic, with a mark where its target is.
///
/// # Errors
/// When the file cannot be written.
pub fn ratios(path: &Path, title: &str, rows: &[Row]) -> Result<()> {
    const BAR: i32 = 22;
    const TOP: i32 = 48;
    const LABELS: i32 = 520;
    let rows: Vec<(&Row, f64)> = rows.iter().filter_map(|row| Some((row, row.ratio?))).collect();
    let height = TOP + BAR * rows.len() as i32 + 16;
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let text = |size: i32| (FONT, size).into_font().color(&BLACK);
    root.draw(&Text::new(format!("{title}: ours ÷ beside it (logarithmic; line: target)"), (16, 14), text(17)))
        .map_err(failed)?;
    let all = rows.iter().flat_map(|(row, ratio)| [Some(*ratio), row.target]).flatten().filter(|value| *value > 0.0);
    let (low, high) = all.fold((0.5f64, 2.0f64), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = (low.log10() - 0.05, high.log10() + 0.25);
    let x = |value: f64| {
        let span = f64::from(WIDTH as i32 - LABELS - 20);
        LABELS + ((value.max(1e-9).log10() - low) / (high - low) * span) as i32
    };
    root.draw(&PathElement::new(vec![(x(1.0), TOP - 8), (x(1.0), height - 12)], GREY_600)).map_err(failed)?;
    for (at, (row, ratio)) in rows.iter().enumerate() {
        let top = TOP + BAR * at as i32;
        let colour = match row.met {
            Some(false) => ORANGE_700,
            _ => BLUE_700,
        };
        let label = shortened(&format!("{} ÷ {}", row.ours, row.baseline.as_deref().unwrap_or_default()));
        root.draw(&Text::new(label, (8, top + 3), text(11))).map_err(failed)?;
        let (from, to) = (x(1.0).min(x(*ratio)), x(1.0).max(x(*ratio)));
        root.draw(&Rectangle::new([(from, top + 2), (to.max(from + 1), top + BAR - 5)], colour.filled())).map_err(failed)?;
        if let Some(target) = row.target {
            let mark = [(x(target), top), (x(target), top + BAR - 3)];
            root.draw(&PathElement::new(mark.to_vec(), BLACK.stroke_width(2))).map_err(failed)?;
        }
        let shown = format!("{ratio:.2}{}", if row.disturbed { " ~" } else { "" });
        root.draw(&Text::new(shown, (to.max(row.target.map_or(0, x)) + 5, top + 3), text(11))).map_err(failed)?;
    }
    root.present().map_err(failed)
}

fn shortened(label: &str) -> String {
    const MAX: usize = 86;
    if label.chars().count() <= MAX {
        return label.to_owned();
    }
    label.chars().take(MAX - 1).chain(['…']).collect()
}

/// Lines over a logarithmic x, from the figures' medians; false when there is nothing to draw.
///
/// # Errors
/// When the file cannot be written.
pub fn curve(path: &Path, curve: &Curve, figures: &[Figure]) -> Result<bool> {
    let value = |name: &str| figures.iter().find(|figure| figure.name == name).map(|figure| figure.value);
    let series: Vec<(&String, Vec<(f64, f64)>)> = curve
        .series
        .iter()
        .map(|(label, points)| (label, points.iter().filter_map(|(x, name)| Some((*x, value(name)?))).collect::<Vec<_>>()))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    let points: Vec<(f64, f64)> = series.iter().flat_map(|(_, points)| points.clone()).collect();
    let reduce = |get: fn(&(f64, f64)) -> f64, best: fn(f64, f64) -> f64| points.iter().map(get).reduce(best);
    let (Some(left), Some(right), Some(top)) =
        (reduce(|p| p.0, f64::min), reduce(|p| p.0, f64::max), reduce(|p| p.1, f64::max))
    else {
        return Ok(false);
    };
    let root = SVGBackend::new(path, (WIDTH, 480)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&curve.title, (FONT, 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d((left * 0.9..right * 1.1).log_scale(), 0.0..top * 1.15)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc(curve.x)
        .y_desc(curve.y)
        .x_label_formatter(&|x| number(x.round()))
        .y_label_formatter(&|y| number(*y))
        .label_style((FONT, 12))
        .draw()
        .map_err(failed)?;
    for ((label, points), colour) in series.into_iter().zip(COLOURS.into_iter().cycle()) {
        chart
            .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)).point_size(4))
            .map_err(failed)?
            .label(label.as_str())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(GREY_600)
        .label_font((FONT, 12))
        .draw()
        .map_err(failed)?;
    root.present().map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_of_known_figures_is_drawn_and_one_of_none_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let figure = |name: &str, value| Figure {
            part: "p",
            name: name.into(),
            value,
            unit: "x/s",
            p50_ms: None,
            p99_ms: None,
            max_ms: None,
            rounds: vec![],
            disturbed: false,
            foreign_cores: 0.0,
            stolen_cores: 0.0,
        };
        let points = vec![(1.0, "a".to_owned()), (64.0, "b".to_owned()), (256.0, "never measured".to_owned())];
        let series = vec![("ours".to_owned(), points)];
        let drawn = Curve { file: "c".into(), title: "Title".into(), x: "callers", y: "x/s", series };
        let path = dir.path().join("c.svg");
        assert!(curve(&path, &drawn, &[figure("a", 10.0), figure("b", 20.0)]).expect("draws"));
        let svg = std::fs::read_to_string(&path).expect("is there");
        assert!(svg.contains("Title") && svg.contains("ours") && svg.contains("<polyline"), "{svg}");
        assert!(!curve(&path, &drawn, &[]).expect("draws nothing"));
    }
}
