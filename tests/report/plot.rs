use kiungo::report::Figure;
use kiungo::report::plot::{HeatMap, Histogram, IntervalChart, LineChart};
use kiungo::retrieval::statistics::Estimate;

/// The texts of an SVG with their places.
fn texts(figure: &Figure) -> Vec<(f64, f64, String)> {
    let text = |part: &str| {
        let (tag, rest) = part.split_once('>').unwrap();
        let number = |name: &str| {
            let from = tag.find(&format!(" {name}=\"")).unwrap() + name.len() + 3;
            tag[from..].split('"').next().unwrap().parse::<f64>().unwrap()
        };
        (number("x"), number("y"), rest.split("</text").next().unwrap().trim().to_string())
    };
    figure.svg.split("<text").skip(1).map(text).collect()
}

fn has(figure: &Figure, text: &str) -> bool {
    texts(figure).iter().any(|t| t.2 == text)
}

/// Width and height of an SVG.
fn size(figure: &Figure) -> (f64, f64) {
    let view = figure.svg.split("viewBox=\"0 0 ").nth(1).unwrap().split('"').next().unwrap();
    let (width, height) = view.split_once(' ').unwrap();
    (width.parse().unwrap(), height.parse().unwrap())
}

#[track_caller]
fn assert_inside(figure: &Figure) {
    let (width, height) = size(figure);
    for (x, y, text) in texts(figure) {
        assert!((0.0..width).contains(&x) && (0.0..height).contains(&y), "{text:?} at {x}, {y} of {width} x {height}");
    }
}

#[test]
fn ticks_are_round_and_have_the_decimals_they_need() {
    let epochs = LineChart::new("P@1", "epoch", "P@1").series("a", [(0.0, 0.033), (3.0, 0.067)]).include_zero();
    let figure = epochs.draw().unwrap();
    for label in ["0", "1", "2", "3", "0.02", "0.06"] {
        assert!(has(&figure, label), "{label} in {:?}", texts(&figure));
    }
    assert!(!has(&figure, "0.5") && !has(&figure, "1.5"), "an epoch has no half");
    let rate =
        LineChart::new("Learning rate", "step", "rate").series("lr", [(0.0, 0.0), (390.0, 2e-4)]).draw().unwrap();
    assert!(has(&rate, "2.0e-4") && has(&rate, "0") && has(&rate, "5e-5"), "{:?}", texts(&rate));
    let signs = LineChart::new("x", "x", "y").series("y", [(0.0, -0.3), (1.0, 0.3)]).draw().unwrap();
    assert!(has(&signs, "0") && has(&signs, "-0.1") && !has(&signs, "-0.0"), "{:?}", texts(&signs));
    let flat = LineChart::new("x", "x", "y").series("y", [(0.0, 0.99991), (2.0, 0.99994)]).draw().unwrap();
    assert!(has(&flat, "0.999930"), "{:?}", texts(&flat));
}

#[test]
fn long_names_stay_inside() {
    let long = "a title that is far too long for a single line of a chart of this width ".repeat(2);
    let chart = (0..7).fold(LineChart::new(&long, "epoch", "cosine"), |chart, i| {
        chart.series(format!("series number {i} of several"), [(0.0, 1.0), (1.0, i.into())])
    });
    let figure = chart.draw().unwrap();
    assert_inside(&figure);
    assert!(texts(&figure).iter().filter(|t| long.contains(&t.2) && t.2.len() > 10).count() >= 3);
    let e = Some(Estimate { value: 0.2, low: 0.1, high: 0.3 });
    let figure = IntervalChart::new("t", "x", ["s"]).row(&long, [e]).row("short", [e]).draw().unwrap();
    assert_inside(&figure);
    assert!(has(&figure, "short") && texts(&figure).iter().any(|t| t.2.ends_with('…')));
}

#[test]
fn a_legend_appears_where_there_is_more_than_one_line() {
    let one = LineChart::new("t", "x", "y").series("alone", [(0.0, 1.0)]);
    assert!(!has(&one.clone().draw().unwrap(), "alone"));
    let two = one.level("chance <&>", 0.5).draw().unwrap();
    assert!(has(&two, "alone") && has(&two, "chance &lt;&amp;&gt;"));
    assert!(two.summary.contains("chance <&> 0.500"));
}

#[test]
fn values_that_are_not_finite_leave_a_gap() {
    let points = [(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, f64::INFINITY), (4.0, 1.0), (5.0, 3.0)];
    let whole = LineChart::new("t", "x", "y").series("a", points.into_iter().filter(|p| p.1.is_finite()));
    let lines = |figure: &Figure| figure.svg.matches("<polyline").count();
    let (gap, whole) = (LineChart::new("t", "x", "y").series("a", points).draw().unwrap(), whole.draw().unwrap());
    assert_eq!(lines(&gap), lines(&whole) + 1);
    assert!(!gap.svg.contains("NaN") && !gap.svg.contains("inf"));
}

#[test]
fn charts_without_or_with_little_data_draw() {
    for points in
        [vec![], vec![(3.0, 0.0)], vec![(3.0, -2.0)], vec![(f64::NAN, f64::NAN)], vec![(0.0, 0.2), (1.0, 0.2)]]
    {
        let figure = LineChart::new("t", "x", "y").series("a", points.clone()).include_zero().draw().unwrap();
        assert_inside(&figure);
        assert_eq!(has(&figure, "no data"), points.iter().all(|p| p.1.is_nan()), "{points:?}");
    }
    assert_inside(&LineChart::new("", "", "").draw().unwrap());
    assert_inside(&IntervalChart::new("t", "x", ["s"]).draw().unwrap());
    let nan = Some(Estimate { value: f64::NAN, low: 0.0, high: 1.0 });
    let figure = IntervalChart::new("t", "x", ["a", "b"]).row("r", [None, nan]).draw().unwrap();
    assert_inside(&figure);
    assert!(!figure.svg.contains("NaN"));
    let extreme = [(0.0, -f64::MAX), (1.0, f64::MAX), (2.0, 5e-324)];
    LineChart::new("t", "x", "y").series("a", extreme).draw().unwrap();
    LineChart::new("t", "x", "y").series("a", [(0.0, 0.0), (1.0, 5e-324)]).draw().unwrap();
}

#[test]
fn long_series_keep_their_extremes_in_a_small_picture() {
    let value = |i: usize| if i == 54_321 { 9.0 } else { (i as f64 * 0.7).sin() };
    let long = LineChart::new("t", "step", "y").series("a", (0..100_000).map(|i| (i as f64, value(i)))).draw().unwrap();
    assert!(long.svg.len() < 60_000, "{} bytes", long.svg.len());
    // The spike reaches the top: the highest point of the line lies above the tick at 8.
    let line = long.svg.split("points=\"").filter(|p| p.len() > 1000).last().unwrap().split('"').next().unwrap();
    let top = line.split_whitespace().map(|p| p.split_once(',').unwrap().1.parse::<f64>().unwrap()).fold(1e9, f64::min);
    let eight = texts(&long).into_iter().find(|t| t.2 == "8").unwrap().1;
    assert!(top < eight, "{top} {eight}");
}

#[test]
fn intervals_show_each_estimate() {
    let e = |value: f64| Some(Estimate { value, low: value - 0.05, high: value + 0.05 });
    let chart = IntervalChart::new("XQuAD", "accuracy@1", ["base", "lora"]).level("chance", 0.004);
    let figure = chart.row("es → en", [e(0.3), e(0.4)]).row("vi → en", [e(0.1), None]).draw().unwrap();
    // Three estimates, and one circle for each name in the legend.
    assert_eq!(figure.svg.matches("<circle").count(), 3 + 2);
    assert!(has(&figure, "es → en") && has(&figure, "chance"));
    assert!(figure.summary.contains("vi → en, base: 0.100 [0.050, 0.150]"), "{}", figure.summary);
    assert_inside(&figure);
}

#[test]
fn a_heat_map_shows_each_value_in_its_place() {
    let map = HeatMap::new("Gain", ["en", "ro"])
        .row("lora@2", [Some(0.104), Some(-0.25)])
        .row("shuffled", [None, Some(0.001)]);
    let figure = map.clone().signed().draw().unwrap();
    assert_inside(&figure);
    let place = |text: &str| texts(&figure).into_iter().find(|t| t.2 == text).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(place("+10.4").0, place("en").0);
    assert_eq!((place("−25.0").0, place("−25.0").1), (place("ro").0, place("lora@2").1));
    assert_eq!(place("+0.1").1, place("shuffled").1);
    assert!(has(&map.draw().unwrap(), "10.4"), "no sign unless asked for");
    assert_eq!(figure.summary, "Gain. lora@2: en 0.104, ro -0.250; shuffled: ro 0.001.");
    // The largest value has the strongest colour, and a missing one has none of the scale.
    assert_eq!(figure.svg.matches("#D55E00").count(), 1);
}

#[test]
fn odd_heat_maps_draw() {
    let long = "a language with a very long name";
    assert_inside(&HeatMap::new("t", Vec::<String>::new()).draw().unwrap());
    let columns: Vec<String> = (0..13).map(|i| format!("{long} {i}")).collect();
    let figure = HeatMap::new("t", columns).row(long, (0..20).map(|_| Some(f64::NAN))).row("", []).draw().unwrap();
    assert_inside(&figure);
    assert!(!figure.svg.contains("NaN"));
    assert_inside(&HeatMap::new("t", ["a"]).row("zeros", [Some(0.0)]).draw().unwrap());
}

#[test]
fn histograms_share_their_bins() {
    let spread = (0..300).map(|i| f64::from(i) / 300.0);
    let figure = Histogram::new("Cosines", "cosine")
        .series("before", spread)
        .series("after", [0.5, 0.5, f64::NAN])
        .series("none", [])
        .draw()
        .unwrap();
    assert_inside(&figure);
    assert_eq!(figure.summary, "Cosines (cosine), means: before 0.498; after 0.500; none: no data.");
    let corners = |part: &str| part.split('"').next().unwrap().split_whitespace().count();
    let outlines = figure.svg.split("points=\"").skip(1).filter(|part| corners(part) > 40).count();
    assert_eq!(outlines, 2, "one for each series with values");
    for values in [vec![], vec![0.3], vec![0.3, 0.3], vec![f64::NAN]] {
        assert_inside(&Histogram::new("t", "x").series("a", values).draw().unwrap());
    }
}
