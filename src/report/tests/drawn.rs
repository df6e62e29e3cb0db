//! The charts of pages as stored pictures, and the colours that bound what can be pressed.

use super::details::sweep;
use super::several::comparison_of_two;
use super::*;
use crate::analyze::alike;
use crate::analyze::figure::svg_to_png;

/// What the style sheet says in colours of one scheme, for a reader that knows no variables.
const STYLE: &str = "
.grid { fill: none; stroke: #dddddd; stroke-width: 4 }
.axis { fill: none; stroke: #999999; stroke-width: 6 }
.label { fill: #444444; font-size: 48px; font-family: Ubuntu }
.line { fill: none; stroke: #2f5d8a; stroke-width: 10 }
.range { fill: none; stroke: #cddcea; stroke-width: 6 }
.dot { fill: #2f5d8a }
.line.s1 { stroke: #db7700 }
.dot.s1 { fill: #db7700 }
.rule { visibility: hidden }
.spot { visibility: hidden }
";

/// Holds the first chart behind `mark` of a page to a stored picture.
fn held(page: &str, mark: &str, name: &str) {
    let part = &page[page.find(mark).unwrap()..];
    let start = part.find("<svg viewBox=\"0 0 1760 880\"").unwrap();
    let end = part[start..].find("</svg>").unwrap();
    let inside = part[start..start + end].split_once('>').unwrap().1;
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1760\" height=\"880\"><style>{STYLE}</style><rect \
         width=\"1760\" height=\"880\" fill=\"#ffffff\"/>{inside}</svg>"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, svg_to_png(&svg, 0.3).unwrap()).unwrap();
    alike(&path, name);
}

#[test]
fn charts_look_like_the_stored_ones() {
    let line = |step: u32| {
        let value = 5.0 / (1.0 + f64::from(step) / 300.0) + 0.3 * (f64::from(step) * 2.399).sin();
        format!(
            "{{\"step\":{step},\"epoch\":{},\"train/loss\":{value}}}\n",
            f64::from(step) / 100.0
        )
    };
    let few: String = (1..=20).map(line).collect();
    let many: String = (1..=2_000).map(line).collect();
    for (metrics, name) in [(few, "report-curve.png"), (many, "report-curve-long.png")] {
        let page = page_of("a", &[("recipe.toml", RECIPE), ("metrics.jsonl", &metrics)]);
        held(&page, "id=\"curves\"", name);
    }
    held(&comparison_of_two(), "<span>train</span> loss", "report-overlay.png");
    held(&sweep(), "weight decay <span>", "report-sweep.png");
}

/// What can be pressed or typed into is bounded by a line that can be seen (WCAG 2.2, 1.4.11): 3 to 1 in both schemes.
#[test]
fn boundaries_stand_out_from_what_they_lie_on() {
    let sheets = [
        include_str!("../../../templates/page.css"),
        include_str!("../../analyze/map/page/map.css"),
    ];
    for sheet in sheets {
        let pair = |name: &str| {
            let line = sheet.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
            let colors = line.trim_start_matches(": light-dark(").trim_end_matches(");");
            colors.split(", ").map(light).collect::<Vec<f64>>()
        };
        for ground in ["--card", "--page"] {
            for (rim, ground) in pair("--rim").into_iter().zip(pair(ground)) {
                let contrast = (rim.max(ground) + 0.05) / (rim.min(ground) + 0.05);
                assert!(contrast >= 3.0, "{contrast}");
            }
        }
    }
    let bounded = [
        (sheets[0], "button {"),
        (sheets[1], "button, select, input {"),
        (include_str!("../../analyze/neighbours/page.css"), "\nselect {"),
        (include_str!("../../analyze/parts/parts.css"), ".pill span {"),
    ];
    for (sheet, rule) in bounded {
        let rule = sheet.split_once(rule).unwrap().1.split('}').next().unwrap();
        assert!(rule.contains("border: 1px solid var(--rim)"), "{rule}");
    }
}

/// Relative luminance of `#rrggbb`.
fn light(color: &str) -> f64 {
    let part = |at: usize| {
        let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
}
