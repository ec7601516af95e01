use kiungo::report::plot::LineChart;
use kiungo::report::{Report, Section, Table};

/// A report with `text` everywhere that text can be.
fn report(text: &str) -> Report {
    let mut table = Table::new([text, "n"]).caption(text);
    table.row([text, "1"]);
    let figure =
        LineChart::new(text, text, text).series(text, [(0.0, 1.0), (1.0, 2.0)]).level(text, 1.5).draw().unwrap();
    let mut report = Report::new(text, text);
    report.warnings.push(text.into());
    report.sections.push(Section::new(text).text(format!("{text}\n\n\n{text}")).table(table).figure(figure));
    report
}

#[test]
fn html_escapes_all_text() {
    let html = report("<script>alert(\"a\" & 'b')</script>").to_html();
    assert!(!html.contains("<script"), "a tag got through");
    assert!(!html.contains("\"a\""), "a quote got through");
    // Title twice, verdict, warning, heading, two paragraphs, caption, header, cell, summary; and in the SVG the
    // title, both axes and the two names of the legend.
    assert!(html.matches("&lt;script&gt;").count() >= 10 + 5);
}

#[test]
fn html_is_one_file_that_needs_nothing_else() {
    let html = report("plain").to_html();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    let bare = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!bare.contains(outside), "{outside}");
    }
    assert_eq!(html.matches("<svg").count(), 1);
    assert_eq!(html, report("plain").to_html());
}

#[test]
fn html_tags_balance() {
    let html = report("a < b & c").to_html();
    let mut open = Vec::new();
    for part in html.split('<').skip(1) {
        let tag = &part[..part.find('>').expect("a tag ends")];
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !(tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name)) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn empty_parts_leave_nothing_behind() {
    let html = Report::new("Title", "").to_html();
    for part in ["class=\"verdict\"", "class=\"warnings\"", "<table", "<figure"] {
        assert!(!html.contains(part), "{part}");
    }
    assert_eq!(Report::new("Title", "").to_text(), "Title\n═════\n");
}

#[test]
fn text_holds_what_the_page_holds() {
    let long = "words ".repeat(40);
    let mut table = Table::new(["arm", "accuracy@1"]);
    table.row(["base", "0.41"]);
    let figure = LineChart::new("Loss", "epoch", "nats").series("lora", [(0.0, 4.7), (1.0, 0.5671)]).draw().unwrap();
    let mut report = Report::new("Comparison", "No difference can be shown.");
    report.warnings.push("12 pairs were dropped.".into());
    report.sections.push(Section::new("Retrieval").text(long).table(table).figure(figure));
    let text = report.to_text();
    assert!(
        text.starts_with(
            "Comparison\n══════════\n\nNo difference can be shown.\n\nWarning: 12 pairs were dropped.\n\n"
        )
    );
    assert!(text.contains("\nRetrieval\n─────────\n\nwords words"));
    assert!(text.contains("arm   accuracy@1\n────  ──────────\nbase        0.41\n"));
    assert!(text.ends_with("Loss (nats over epoch): lora from 4.700 to 0.567.\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100));
}
