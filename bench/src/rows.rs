//! From samples to what is told: medians over the rounds, ratios of the same round.

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::figure::{Check, Compare, Curve, Sample, Stat, Things};

/// A part that has run, or has failed to.
pub struct Finished {
    pub name: &'static str,
    pub compares: Vec<Compare>,
    pub curves: Vec<Curve>,
    pub checks: Vec<Check>,
    pub notes: Vec<String>,
    pub failure: Option<String>,
}

/// A comparison of all rounds.
#[derive(Debug, Serialize)]
pub struct Row {
    pub part: &'static str,
    pub ours: String,
    pub baseline: Option<String>,
    /// Median of our figures.
    pub value: f64,
    pub unit: &'static str,
    pub baseline_value: Option<f64>,
    /// Median of the ratios of samples that were taken side by side.
    pub ratio: Option<f64>,
    /// These ratios; for a bound our samples.
    pub rounds: Vec<f64>,
    pub target: Option<f64>,
    pub at_least: bool,
    pub met: Option<bool>,
    pub disturbed: bool,
}

/// A figure of all rounds.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub part: &'static str,
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub max_ms: Option<f64>,
    /// Every sample. Most figures have one of each round.
    pub rounds: Vec<f64>,
    pub disturbed: bool,
    pub foreign_cores: f64,
    pub stolen_cores: f64,
}

/// The middle one; of an even number the mean of the middle two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    Some(if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 })
}

/// One figure a name, in the order of their first appearance.
pub fn figures(samples: &[Sample]) -> Vec<Figure> {
    let mut names: Vec<(&'static str, &str)> = Vec::new();
    for sample in samples {
        if !names.contains(&(sample.part, &sample.name)) {
            names.push((sample.part, &sample.name));
        }
    }
    names
        .into_iter()
        .filter_map(|(part, name)| {
            let of_name: Vec<&Sample> = samples.iter().filter(|s| s.part == part && s.name == name).collect();
            let middle = |get: fn(&Sample) -> Option<f64>| median(of_name.iter().filter_map(|s| get(s)).collect());
            Some(Figure {
                part,
                name: name.to_owned(),
                value: middle(|sample| Some(sample.value))?,
                unit: of_name.first()?.unit,
                p50_ms: middle(|sample| sample.p50_ms),
                p99_ms: middle(|sample| sample.p99_ms),
                // A maximum is one of all rounds.
                max_ms: of_name.iter().filter_map(|sample| sample.max_ms).reduce(f64::max),
                rounds: of_name.iter().map(|sample| sample.value).collect(),
                disturbed: of_name.iter().any(|sample| sample.taken.disturbs()),
                foreign_cores: of_name.iter().map(|sample| sample.taken.foreign_cores).fold(0.0, f64::max),
                stolen_cores: of_name.iter().map(|sample| sample.taken.stolen_cores).fold(0.0, f64::max),
            })
        })
        .collect()
}

/// The comparisons of a part for which there are samples.
pub fn rows(part: &Finished, samples: &[Sample]) -> Vec<Row> {
    part.compares.iter().filter_map(|compare| row(part.name, compare, samples)).collect()
}

/// What was measured beside one of our samples: of the same round, and there as many samples of its name after the first.
fn beside<'a>(ours: &[&Sample], at: usize, theirs: &[&'a Sample]) -> Option<&'a Sample> {
    let round = ours[at].round;
    let before = ours[..at].iter().filter(|sample| sample.round == round).count();
    theirs.iter().filter(|other| other.round == round).nth(before).copied()
}

fn row(part: &'static str, compare: &Compare, samples: &[Sample]) -> Option<Row> {
    let of = |name: &str| samples.iter().filter(|s| s.part == part && s.name == name).collect::<Vec<_>>();
    let ours = of(&compare.ours);
    let theirs = compare.baseline.as_ref().map(|name| of(name)).unwrap_or_default();
    let value = |sample: &Sample| compare.stat.of(sample);
    let unit = match compare.stat {
        Stat::Value => ours.first()?.unit,
        Stat::P99 => "ms",
    };
    let ratio_of = |at: usize| Some(value(ours[at])? / value(beside(&ours, at, &theirs)?)?);
    let rounds: Vec<f64> = match &compare.baseline {
        Some(_) => (0..ours.len()).filter_map(ratio_of).collect(),
        None => ours.iter().filter_map(|sample| value(sample)).collect(),
    };
    let judged = median(rounds.clone())?;
    Some(Row {
        part,
        ours: compare.ours.clone(),
        baseline: compare.baseline.clone(),
        value: median(ours.iter().filter_map(|sample| value(sample)).collect())?,
        unit,
        baseline_value: median(theirs.iter().filter_map(|sample| value(sample)).collect()),
        ratio: compare.baseline.as_ref().map(|_| judged),
        rounds,
        target: compare.target,
        at_least: compare.at_least,
        met: compare.target.map(|target| if compare.at_least { judged >= target } else { judged <= target }),
        disturbed: ours.iter().chain(&theirs).any(|sample| sample.taken.disturbs()),
    })
}

/// Four significant digits, thousands apart.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        let left = whole.len() - at;
        if at > 0 && left % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    rest.map_or(grouped.clone(), |rest| format!("{grouped}.{rest}"))
}

fn marked(text: String, disturbed: bool) -> String {
    if disturbed { format!("{text} ~") } else { text }
}

/// A figure with the number of its samples, where that is not the number of rounds.
fn counted(text: String, samples: usize, rounds: usize) -> String {
    if samples == rounds {
        return text;
    }
    format!("{text} ({samples} sample{})", if samples == 1 { "" } else { "s" })
}

/// How many acknowledged commands were looked up in a log, and how many other things were checked.
pub fn looked_at<'a>(checks: impl IntoIterator<Item = &'a Check>) -> (u64, u64) {
    checks.into_iter().fold((0, 0), |(commands, others), check| match check.things {
        Things::Commands => (commands + check.count, others),
        Things::Others => (commands, others + check.count),
    })
}

/// The cells of a row of so many rounds: what, beside what, our figure, the other's, the ratio, the target, met.
pub fn cells(row: &Row, rounds: usize) -> [String; 7] {
    let bound = if row.at_least { "≥" } else { "≤" };
    [
        row.ours.clone(),
        row.baseline.clone().unwrap_or_else(|| "-".to_owned()),
        counted(format!("{} {}", number(row.value), row.unit), row.rounds.len(), rounds),
        row.baseline_value.map_or("-".to_owned(), number),
        marked(row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")), row.disturbed),
        row.target.map_or(String::new(), |target| format!("{bound} {target}")),
        row.met.map_or("", |met| if met { "yes" } else { "NO" }).to_owned(),
    ]
}

/// The cells of a figure of so many rounds: name, value, p50, p99, max.
pub fn figure_cells(figure: &Figure, rounds: usize) -> [String; 5] {
    let ms = |value: Option<f64>| value.map_or(String::new(), number);
    [
        figure.name.clone(),
        marked(counted(format!("{} {}", number(figure.value), figure.unit), figure.rounds.len(), rounds), figure.disturbed),
        ms(figure.p50_ms),
        ms(figure.p99_ms),
        ms(figure.max_ms),
    ]
}

pub const ROW_HEADER: [&str; 7] = ["ours", "beside", "ours", "beside it", "ratio", "target", "met"];
pub const FIGURE_HEADER: [&str; 5] = ["figure", "median", "p50 ms", "p99 ms", "max ms"];

/// What is printed of a part of so many rounds.
pub fn print(part: &Finished, samples: &[Sample], rounds: usize) {
    println!("\n{}", part.name);
    let own: Vec<Sample> = samples.iter().filter(|sample| sample.part == part.name).cloned().collect();
    let mut figures_table = Table::new();
    figures_table.load_style(presets::NOTHING).set_header(FIGURE_HEADER);
    for figure in figures(&own) {
        figures_table.add_row(figure_cells(&figure, rounds));
    }
    println!("{figures_table}\n");
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(ROW_HEADER);
    for row in rows(part, samples) {
        table.add_row(cells(&row, rounds));
    }
    println!("{table}");
    for check in &part.checks {
        if check.failed() {
            println!(
                "WRONG  {}: {}",
                check.what,
                if check.count == 0 { "nothing was looked at".to_owned() } else { check.wrong.join(" | ") }
            );
        }
    }
    let (commands, others) = looked_at(&part.checks);
    let failed = part.checks.iter().filter(|check| check.failed()).count();
    println!(
        "{commands} acknowledged commands looked up in the log and {others} other things checked, in {} checks, {failed} failed",
        part.checks.len()
    );
    if let Some(failure) = &part.failure {
        println!("FAILED  {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quiet::Taken;

    fn sample(name: &str, round: usize, value: f64, foreign_cores: f64) -> Sample {
        let (name, p99_ms) = (name.to_owned(), Some(value / 10.0));
        let taken = Taken { foreign_cores, ..Taken::NOTHING };
        Sample { part: "p", name, value, unit: "x/s", p50_ms: None, p99_ms, max_ms: None, round, taken }
    }

    fn finished(compare: Compare) -> Finished {
        Finished { name: "p", compares: vec![compare], curves: vec![], checks: vec![], notes: vec![], failure: None }
    }

    #[test]
    fn a_ratio_is_of_one_round_and_the_median_of_the_rounds_counts() {
        // The machine is twice as fast in the second round: the ratios are 2, 2 and 8.
        let samples = [
            sample("a", 0, 20.0, 0.0),
            sample("b", 0, 10.0, 0.0),
            sample("a", 1, 40.0, 0.0),
            sample("b", 1, 20.0, 0.0),
            sample("a", 2, 80.0, 0.9),
            sample("b", 2, 10.0, 0.0),
        ];
        let row = &rows(&finished(Compare::ratio("a", "b").at_least(2.0)), &samples)[0];
        assert_eq!((row.ratio, row.met, row.disturbed), (Some(2.0), Some(true), true));
        let row = &rows(&finished(Compare::ratio("a", "b").at_least(2.1)), &samples[..4])[0];
        assert_eq!((row.met, row.disturbed), (Some(false), false));
    }

    #[test]
    fn of_several_samples_in_a_round_each_is_compared_with_what_was_measured_beside_it() {
        // All in the first round: the ratios are 1, 2 and 3. Beside the first of the others they would be 1, 4 and 9.
        let beside = |name, values: [f64; 3]| values.map(|value| sample(name, 0, value, 0.0));
        let samples = [beside("a", [10.0, 40.0, 90.0]), beside("b", [10.0, 20.0, 30.0])].concat();
        let row = &rows(&finished(Compare::ratio("a", "b")), &samples)[0];
        assert_eq!((row.ratio, &row.rounds[..]), (Some(2.0), &[1.0, 2.0, 3.0][..]));
        // In the order in which they are measured, and the last of ours with nothing beside it.
        let interleaved = [0, 3, 1, 4, 2].map(|at: usize| samples[at].clone());
        let row = &rows(&finished(Compare::ratio("a", "b")), &interleaved)[0];
        assert_eq!((row.ratio, &row.rounds[..]), (Some(1.5), &[1.0, 2.0][..]));
        // What another round has beside it is another thing.
        let later = [samples.clone(), vec![sample("a", 1, 8.0, 0.0), sample("b", 1, 2.0, 0.0)]].concat();
        assert_eq!(rows(&finished(Compare::ratio("a", "b")), &later)[0].rounds, [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn what_was_measured_while_the_hypervisor_took_time_is_marked() {
        let taken = Taken { stolen_cores: 0.2, ..Taken::NOTHING };
        let samples = [Sample { taken, ..sample("a", 0, 300.0, 0.0) }];
        let figure = &figures(&samples)[0];
        assert_eq!((figure.disturbed, figure.stolen_cores, figure.foreign_cores), (true, 0.2, 0.0));
        assert!(rows(&finished(Compare::bound("a", Stat::Value)), &samples)[0].disturbed);
    }

    #[test]
    fn the_number_of_samples_stands_where_it_is_not_that_of_the_rounds() {
        let samples = [sample("a", 0, 300.0, 0.0)];
        let figure = &figures(&samples)[0];
        let shown = [1, 3].map(|rounds| figure_cells(figure, rounds)[1].clone());
        assert_eq!(shown, ["300 x/s", "300 x/s (1 sample)"]);
        let row = &rows(&finished(Compare::bound("a", Stat::Value)), &samples)[0];
        assert_eq!(cells(row, 3)[2], "300 x/s (1 sample)");
    }

    #[test]
    fn commands_in_the_log_are_counted_apart_from_all_else() {
        let in_log = |count| Check { things: Things::Commands, ..Check::others("c", count, vec![]) };
        let checks = [in_log(7), Check::others("answers", 100, vec![]), in_log(2), in_log(5).of_peer()];
        assert_eq!(looked_at(&checks), (9, 105));
    }

    #[test]
    fn a_bound_is_held_against_the_figure_itself() {
        let samples = [sample("a", 0, 300.0, 0.0)];
        let row = &rows(&finished(Compare::bound("a", Stat::P99).at_most(25.0)), &samples)[0];
        assert_eq!((row.value, row.unit, row.ratio, row.met), (30.0, "ms", None, Some(false)));
    }

    #[test]
    fn a_comparison_without_its_baseline_is_left_out() {
        assert!(rows(&finished(Compare::ratio("a", "b")), &[sample("a", 0, 1.0, 0.0)]).is_empty());
    }

    #[test]
    fn numbers_are_short_and_readable() {
        let shown: Vec<String> = [1_234_567.8, 123.4, 12.34, 1.234, 0.1234, 0.0].into_iter().map(number).collect();
        assert_eq!(shown, ["1,234,568", "123", "12.3", "1.23", "0.123", "0.000"]);
    }
}
