//! Stacked horizontal bars, as SVG: where each follower's lag comes from.

use std::fmt::Write as _;

use super::super::html::Escaped;
use super::axis::{Axis, Scale};
use super::chart::WIDTH;
use super::short_us;

/// Room of one bar: its name, and below it the bar.
const ROW: f64 = 33.0;
const BAR: f64 = 13.0;
const TOP: f64 = 4.0;
const BOTTOM: f64 = 34.0;
const LEFT: f64 = 4.0;
const RIGHT: f64 = 14.0;

/// The parts of a bar, in their order, with the class that paints each.
const PARTS: [(&str, &str); 4] =
    [("queue", "b0"), ("network", "b1"), ("disk (hatched: the sync itself)", "b2"), ("apply", "b3")];

/// One bar, in microseconds.
pub(super) struct Bar {
    /// Whose it is.
    pub(super) name: String,
    pub(super) queue: f64,
    pub(super) network: f64,
    pub(super) disk: f64,
    /// Part of the disk's.
    pub(super) sync: f64,
    pub(super) apply: f64,
}

impl Bar {
    fn lag(&self) -> f64 {
        self.queue + self.network + self.disk
    }

    /// Where each part begins, how long it is, and how it is painted.
    fn parts(&self) -> [(f64, f64, &'static str); 5] {
        let to_disk = self.queue + self.network;
        let sync = self.sync.min(self.disk);
        [
            (0.0, self.queue, PARTS[0].1),
            (self.queue, self.network, PARTS[1].1),
            (to_disk, self.disk, PARTS[2].1),
            (to_disk + self.disk - sync, sync, "hatch"),
            (self.lag(), self.apply, PARTS[3].1),
        ]
    }
}

/// All bars on one axis; `id` is unique on its page.
pub(super) fn svg(bars: &[Bar], title: &str, description: &str, id: &str) -> String {
    let longest = bars.iter().map(|bar| bar.lag() + bar.apply);
    let axis = Axis::fitted("mean time per write", Scale::Linear, short_us, longest);
    let bottom = TOP + ROW * bars.len() as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
         <title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>\
         <defs><pattern id=\"{id}-h\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><path d=\"M0 0V5\" class=\"stripe\"/></pattern></defs>",
        bottom + BOTTOM,
        Escaped(title),
        Escaped(description)
    );
    let place = |us: f64| LEFT + axis.place(us) * (WIDTH - LEFT - RIGHT);
    for (us, text) in axis.ticks() {
        let x = place(us);
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"middle\">{}</text>",
            x.max(LEFT + 4.0),
            bottom + 13.0,
            Escaped(&text)
        );
    }
    for (number, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * number as f64;
        let figures =
            format!("{}: lag {}, then apply {}", bar.name, short_us(bar.lag()), short_us(bar.apply));
        let _ = write!(svg, "<text x=\"{LEFT}\" y=\"{:.1}\">{}</text>", y + 12.0, Escaped(&figures));
        for (begin, length, class) in bar.parts() {
            let (from, to) = (place(begin), place(begin + length));
            let fill = if class == "hatch" { format!(" fill=\"url(#{id}-h)\"") } else { String::new() };
            let _ = write!(
                svg,
                "<rect class=\"{class}\"{fill} x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\"/>",
                y + 16.0,
                to - from
            );
        }
        let lag = place(bar.lag());
        let _ = write!(svg, "<path class=\"frame\" d=\"M{lag:.1} {:.1}v{:.1}\"/>", y + 14.0, BAR + 4.0);
    }
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" class=\"axis middle\">{}</text></svg>",
        WIDTH / 2.0,
        bottom + BOTTOM - 5.0,
        axis.label
    );
    svg
}

/// What the parts are.
pub(super) fn legend() -> String {
    let mut legend = String::from("<ul class=\"legend\">");
    for (name, class) in PARTS {
        let _ = write!(
            legend,
            "<li><svg viewBox=\"0 0 26 12\" aria-hidden=\"true\"><rect class=\"{class}\" x=\"2\" y=\"1\" \
             width=\"22\" height=\"10\"/></svg>{name}</li>"
        );
    }
    legend.push_str("</ul>");
    legend
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar() -> Bar {
        let name = "quorum 2, node <3>".to_owned();
        Bar { name, queue: 40.0, network: 160.0, disk: 500.0, sync: 220.0, apply: 300.0 }
    }

    #[test]
    fn the_parts_follow_each_other_and_add_up() {
        let parts = bar().parts();
        assert_eq!(parts.map(|(begin, _, _)| begin), [0.0, 40.0, 200.0, 480.0, 700.0]);
        let end = parts.iter().map(|(begin, length, _)| begin + length).fold(0.0, f64::max);
        assert_eq!((bar().lag(), end), (700.0, 1_000.0));
    }

    #[test]
    fn each_bar_has_its_name_and_figures() {
        let svg = svg(&[bar(), bar()], "t", "d", "p9");
        assert_eq!(
            svg.matches("quorum 2, node &lt;3&gt;: lag 700 µs, then apply 300 µs").count(),
            2,
            "{svg}"
        );
        assert_eq!(svg.matches("<rect").count(), 2 * 5);
    }
}
