//! Lines and points over two axes, as SVG.
//!
//! Drawn for the width of a phone: 360 units wide with letters of 11, so that nothing is below 10 pixels there;
//! on wider screens the page makes it larger. Colours, dashes and fonts are the page's (`page.css`), by classes:
//! `s0` to `s6` for series, so light and dark differ in the style sheet alone.

use std::fmt::Write as _;

use super::super::html::Escaped;
use super::axis::Axis;

/// Width and height of a chart, in units.
pub(super) const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 236.0;

/// What is around the plot.
const LEFT: f64 = 50.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 38.0;

/// Rows of labels for marks above the plot.
const MARK_ROWS: usize = 3;
const MARK_ROW_HEIGHT: f64 = 13.0;

/// Width of one letter, for what must not overlap.
const LETTER: f64 = 7.4;

/// Points of a line that get a marker, so that lines differ without colours.
const MARKERS: usize = 6;

/// Different looks of series.
pub(super) const STYLES: usize = 7;

/// A picture of numbers over two axes.
pub(super) struct Chart {
    /// What it shows, for who cannot see it.
    pub(super) title: String,
    /// The same in a sentence.
    pub(super) description: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Moments on the x axis.
    pub(super) marks: Vec<Mark>,
}

/// Points that belong together.
pub(super) struct Series {
    /// What the legend calls it; none if it is explained with another one.
    pub(super) name: Option<String>,
    /// Which look; series of one case have the same.
    pub(super) style: usize,
    pub(super) kind: Kind,
    pub(super) points: Vec<(f64, f64)>,
}

/// How a series is drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A line with some markers.
    Line,
    /// A thin dashed line beside another of the same look.
    Dashed,
    /// A line with a marker at each point.
    Points,
    /// The same, hollow and thin.
    HollowPoints,
    /// Small points alone.
    Dots,
}

/// Something that happened at one place of the x axis.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) label: String,
}

impl Chart {
    /// The picture; `id` is unique on its page.
    pub(super) fn svg(&self, id: &str) -> String {
        let mut svg = String::new();
        let _ = write!(
            svg,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>",
            Escaped(&self.title),
            Escaped(&self.description)
        );
        self.draw_axes(&mut svg);
        self.draw_marks(&mut svg);
        self.series.iter().for_each(|series| self.draw_series(&mut svg, series));
        svg.push_str("</svg>");
        svg
    }

    /// What the lines are: a list with a sample of each.
    pub(super) fn legend(&self) -> String {
        let mut legend = String::new();
        for series in &self.series {
            let Some(name) = &series.name else { continue };
            let style = series.style % STYLES;
            let line = match series.kind {
                Kind::Dashed => format!("<path class=\"s{style} thin\" d=\"M0 6H26\"/>"),
                Kind::Dots => String::new(),
                _ => format!("<path class=\"s{style}\" d=\"M0 6H26\"/>"),
            };
            let marker = match series.kind {
                Kind::Dashed => String::new(),
                kind => marker(13.0, 6.0, series.style, kind),
            };
            let _ = write!(
                legend,
                "<li><svg viewBox=\"0 0 26 12\" aria-hidden=\"true\">{line}{marker}</svg>{}</li>",
                Escaped(name)
            );
        }
        if legend.is_empty() { legend } else { format!("<ul class=\"legend\">{legend}</ul>") }
    }

    /// Where the plot begins: below as many rows of labels as the marks need.
    fn top(&self) -> f64 {
        let rows = self.mark_rows().into_iter().flatten().map(|row| row + 1).max().unwrap_or(0);
        TOP + MARK_ROW_HEIGHT * rows as f64
    }

    /// For each mark the row of its label, if any has room.
    fn mark_rows(&self) -> Vec<Option<usize>> {
        let mut taken = [0.0; MARK_ROWS];
        let row = |mark: &Mark| {
            let (begins, width) = self.label(mark);
            let row = taken.iter().position(|end| *end <= begins)?;
            taken[row] = begins + width + LETTER;
            Some(row)
        };
        self.marks.iter().map(row).collect()
    }

    /// Where the label of a mark begins, and how wide it is.
    fn label(&self, mark: &Mark) -> (f64, f64) {
        let width = mark.label.chars().count() as f64 * LETTER;
        (self.place_x(mark.at).min(WIDTH - width), width)
    }

    fn place_x(&self, number: f64) -> f64 {
        LEFT + self.x.place(number) * (WIDTH - LEFT - RIGHT)
    }

    fn place_y(&self, number: f64) -> f64 {
        let bottom = HEIGHT - BOTTOM;
        bottom - self.y.place(number) * (bottom - self.top())
    }

    fn draw_axes(&self, svg: &mut String) {
        let (top, bottom, end) = (self.top(), HEIGHT - BOTTOM, WIDTH - RIGHT);
        let _ = write!(svg, "<text x=\"2\" y=\"12\" class=\"axis\">{}</text>", Escaped(self.y.label));
        for (number, text) in self.y.ticks() {
            let y = self.place_y(number);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{end}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{}</text>",
                LEFT - 4.0,
                y + 4.0,
                Escaped(&text)
            );
        }
        for (number, text) in self.x.ticks() {
            let x = self.place_x(number);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"middle\">{}</text>",
                x.min(WIDTH - text.chars().count() as f64 * LETTER / 2.0),
                bottom + 14.0,
                Escaped(&text)
            );
        }
        let _ = write!(
            svg,
            "<path class=\"frame\" d=\"M{LEFT} {top}V{bottom}H{end}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"axis middle\">{}</text>",
            (LEFT + end) / 2.0,
            HEIGHT - 6.0,
            Escaped(self.x.label)
        );
    }

    /// A line for each mark; its label where a row has room. All are in the remarks as well.
    fn draw_marks(&self, svg: &mut String) {
        let (top, bottom) = (self.top(), HEIGHT - BOTTOM);
        for (mark, row) in self.marks.iter().zip(self.mark_rows()) {
            let x = self.place_x(mark.at);
            let _ = write!(svg, "<path class=\"mark\" d=\"M{x:.1} {:.1}V{bottom}\"/>", top - 2.0);
            let Some(row) = row else { continue };
            let (begins, _) = self.label(mark);
            let y = top - 5.0 - MARK_ROW_HEIGHT * row as f64;
            let _ = write!(
                svg,
                "<text x=\"{begins:.1}\" y=\"{y:.1}\" class=\"event\">{}</text>",
                Escaped(&mark.label)
            );
        }
    }

    fn draw_series(&self, svg: &mut String, series: &Series) {
        let places: Vec<_> =
            series.points.iter().map(|(x, y)| (self.place_x(*x), self.place_y(*y))).collect();
        let style = series.style % STYLES;
        if series.kind != Kind::Dots && places.len() > 1 {
            let thin = if matches!(series.kind, Kind::Dashed | Kind::HollowPoints) { " thin" } else { "" };
            let mut path = String::new();
            for (number, (x, y)) in places.iter().enumerate() {
                let _ = write!(path, "{}{x:.1} {y:.1}", if number == 0 { 'M' } else { 'L' });
            }
            let _ = write!(svg, "<path class=\"s{style}{thin}\" d=\"{path}\"/>");
        }
        let every = match series.kind {
            Kind::Dashed => return,
            Kind::Line => places.len().div_ceil(MARKERS).max(1),
            _ => 1,
        };
        // Markers of different looks begin at different points: lines that coincide stay told apart.
        let begin = if every > 1 { series.style % every } else { 0 };
        for (x, y) in places.iter().skip(begin).step_by(every) {
            svg.push_str(&marker(*x, *y, series.style, series.kind));
        }
    }
}

/// A shape around a place: what tells series apart without colours.
fn marker(x: f64, y: f64, style: usize, kind: Kind) -> String {
    let r = if kind == Kind::Dots { 1.8 } else { 3.4 };
    let class = if matches!(kind, Kind::HollowPoints) { "o" } else { "d" };
    let style = style % STYLES;
    let class = format!("class=\"{class}{style}\"");
    match style {
        0 => format!("<circle {class} cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"/>"),
        1 => format!("<path {class} d=\"M{:.1} {:.1}h{s:.1}v{s:.1}h-{s:.1}z\"/>", x - r, y - r, s = r * 2.0),
        2 => format!(
            "<path {class} d=\"M{x:.1} {:.1}l{r:.1} {h:.1}h-{w:.1}z\"/>",
            y - r,
            h = r * 1.8,
            w = r * 2.0
        ),
        3 => format!(
            "<path {class} d=\"M{x:.1} {:.1}l{r:.1} {r:.1}l-{r:.1} {r:.1}l-{r:.1} -{r:.1}z\"/>",
            y - r
        ),
        4 => format!(
            "<path {class} d=\"M{x:.1} {:.1}l{r:.1} -{h:.1}h-{w:.1}z\"/>",
            y + r,
            h = r * 1.8,
            w = r * 2.0
        ),
        5 => format!(
            "<path {class} d=\"M{:.1} {:.1}h{s:.1}v{h:.1}h-{s:.1}z\"/>",
            x - r,
            y - r / 2.0,
            s = r * 2.0,
            h = r
        ),
        _ => format!(
            "<path {class} d=\"M{:.1} {:.1}h{h:.1}v{s:.1}h-{h:.1}z\"/>",
            x - r / 2.0,
            y - r,
            s = r * 2.0,
            h = r
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::axis::Scale;
    use super::*;

    fn chart(points: Vec<(f64, f64)>, marks: Vec<Mark>) -> Chart {
        let axis =
            |label| Axis::fitted(label, Scale::Linear, |number| number.to_string(), [0.0, 10.0].into_iter());
        let series = Series { name: Some("a <line>".to_owned()), style: 0, kind: Kind::Line, points };
        let (title, description) = ("A & B".to_owned(), "how".to_owned());
        Chart { title, description, x: axis("time"), y: axis("lag"), series: vec![series], marks }
    }

    #[test]
    fn a_chart_tells_what_it_is_to_who_cannot_see_it() {
        let svg = chart(vec![(0.0, 1.0), (10.0, 9.0)], Vec::new()).svg("p1");
        assert!(svg.contains("aria-labelledby=\"p1-t p1-d\""), "{svg}");
        assert!(svg.contains("<title id=\"p1-t\">A &amp; B</title><desc id=\"p1-d\">how</desc>"), "{svg}");
    }

    #[test]
    fn without_points_there_are_axes_alone() {
        let svg = chart(Vec::new(), Vec::new()).svg("p1");
        assert!(
            !svg.contains("class=\"s0\"") && svg.contains("class=\"frame\"") && !svg.contains("NaN"),
            "{svg}"
        );
    }

    #[test]
    fn labels_of_marks_do_not_overlap() {
        let mark = |at| Mark { at, label: "slow-sync 3 20ms".to_owned() };
        let svg = chart(vec![(1.0, 1.0)], (0..10).map(|at| mark(f64::from(at))).collect()).svg("p1");
        assert_eq!(svg.matches("class=\"mark\"").count(), 10, "each has its line");
        let labels = svg.matches("class=\"event\"").count();
        assert!((3..10).contains(&labels), "{labels} fit");
    }

    #[test]
    fn names_in_the_legend_are_text() {
        assert!(chart(Vec::new(), Vec::new()).legend().contains("a &lt;line&gt;"));
    }
}
