//! The embedded font: measuring, glyph coverage, and numbers with superscript exponents.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, GlyphId, PxScale, ScaleFont, point};

/// A subset of DejaVu Sans 2.37, see LICENSE-DejaVu.txt.
static FONT: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    FontRef::try_from_slice(include_bytes!("dejavu_sans.ttf")).expect("the embedded font is valid")
});

/// Height of capitals as a share of the font size.
pub(super) const CAP_HEIGHT: f64 = 0.73;
/// Depth of descenders as a share of the font size.
pub(super) const DESCENT: f64 = 0.24;

fn scale(size: f64) -> PxScale {
    let units = f64::from(
        FONT.units_per_em()
            .expect("the embedded font states its units"),
    );
    PxScale::from((size * f64::from(FONT.height_unscaled()) / units) as f32)
}

/// Size of raised text as a share of the font size.
pub(super) const RAISED_SIZE: f64 = 0.68;
/// How high raised text stands, as a share of the font size.
pub(super) const RAISED_BY: f64 = 0.38;

/// The parts of `text` and whether they are raised: `x^{2} + y` has the parts `x`, `2` raised, ` + y`.
pub(super) fn parts(text: &str) -> Vec<(&str, bool)> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("^{") {
        let Some((raised, after)) = after.split_once('}') else {
            break;
        };
        all.push((before, false));
        all.push((raised, true));
        rest = after;
    }
    all.push((rest, false));
    all.retain(|(part, _)| !part.is_empty());
    all
}

struct Placed {
    glyph: GlyphId,
    scale: PxScale,
    x: f32,
    y: f32,
}

/// Glyphs of `text` with their places, and the width, in pixels.
fn layout(text: &str, size: f64) -> (Vec<Placed>, f64) {
    let mut x = 0.0;
    let mut glyphs = Vec::new();
    for (part, raised) in parts(text) {
        let (size, up) = if raised {
            (size * RAISED_SIZE, size * RAISED_BY)
        } else {
            (size, 0.0)
        };
        let scale = scale(size);
        let font = FONT.as_scaled(scale);
        let mut last = None;
        for character in part.chars() {
            let glyph = font.glyph_id(character);
            x += last.map_or(0.0, |last| font.kern(last, glyph));
            glyphs.push(Placed {
                glyph,
                scale,
                x,
                y: -up as f32,
            });
            x += font.h_advance(glyph);
            last = Some(glyph);
        }
    }
    (glyphs, f64::from(x))
}

/// Width of `text` at font size `size`, in pixels.
pub(super) fn width(text: &str, size: f64) -> f64 {
    layout(text, size).1
}

/// Calls `put(right, down, coverage)` for every pixel of `text`, relative to the start of its baseline.
pub(super) fn pixels(text: &str, size: f64, mut put: impl FnMut(i32, i32, f64)) {
    for Placed { glyph, scale, x, y } in layout(text, size).0 {
        let Some(outline) = FONT.outline_glyph(glyph.with_scale_and_position(scale, point(x, y)))
        else {
            continue; // a space
        };
        let bounds = outline.px_bounds();
        let (left, top) = (bounds.min.x as i32, bounds.min.y as i32);
        outline.draw(|right, down, coverage| {
            put(
                left + right as i32,
                top + down as i32,
                f64::from(coverage.clamp(0.0, 1.0)),
            );
        });
    }
}

/// Breaks `text` at plain spaces into lines no wider than `limit` pixels (a longer word stays whole).
pub(super) fn wrap(text: &str, size: f64, limit: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if width(line, size) + width(" ", size) + width(word, size) <= limit => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `value` as a superscript, e.g. -12 with raised minus and digits.
pub(super) fn superscript(value: i32) -> String {
    const DIGITS: [char; 10] = [
        '\u{2070}', '\u{b9}', '\u{b2}', '\u{b3}', '\u{2074}', '\u{2075}', '\u{2076}', '\u{2077}',
        '\u{2078}', '\u{2079}',
    ];
    let raise = |c: char| {
        c.to_digit(10)
            .map_or('\u{207b}', |digit| DIGITS[digit as usize])
    };
    value.to_string().chars().map(raise).collect()
}

/// A power of ten times a mantissa: 10^5 or 2 x 10^5 with typographic signs.
pub(super) fn scientific(mantissa: f64, exponent: i32) -> String {
    let power = format!("10{}", superscript(exponent));
    if (mantissa - 1.0).abs() < 1e-9 {
        power
    } else {
        format!("{}\u{d7}{power}", trimmed(mantissa, 2))
    }
}

/// `value` with at most `decimals` decimals and no trailing zeros; a typographic minus.
pub(super) fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    if text == "-0" {
        "0".to_owned()
    } else {
        text.replace('-', "\u{2212}")
    }
}

/// A number for running text: at most three significant digits, powers of ten outside 0.001 .. 99999.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let exponent = value.abs().log10().floor() as i32;
    if (-3..5).contains(&exponent) {
        return trimmed(value, (2 - exponent).clamp(0, 5) as usize);
    }
    let mantissa = value / 10f64.powi(exponent);
    if mantissa < 0.0 {
        return format!("\u{2212}{}", number(-value));
    }
    scientific(mantissa, exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_set_as_in_print() {
        assert_eq!(superscript(-12), "\u{207b}\u{b9}\u{b2}");
        assert_eq!(scientific(1.0, 5), "10\u{2075}");
        assert_eq!(scientific(2.0, 5), "2\u{d7}10\u{2075}");
        assert_eq!(number(0.0412), "0.0412");
        assert_eq!(number(1.27e7), "1.27\u{d7}10\u{2077}");
        assert_eq!(number(-2.5), "\u{2212}2.5");
        assert_eq!(number(12345.0), "12345");
    }

    #[test]
    fn raised_parts_are_found() {
        assert_eq!(
            parts("x^{2} + y"),
            [("x", false), ("2", true), (" + y", false)]
        );
        assert_eq!(parts("x^{2"), [("x^{2", false)]);
        assert!(width("x^{22}", 40.0) < width("x22", 40.0));
    }

    #[test]
    fn widths_add_up_and_lines_fit() {
        let both = width("ll", 40.0);
        assert!((both - 2.0 * width("l", 40.0)).abs() < 1.0 && both > 15.0);
        let lines = wrap("one two three four five six seven", 30.0, 200.0);
        assert!(lines.len() > 1 && lines.iter().all(|line| width(line, 30.0) <= 200.0));
        assert_eq!(lines.join(" "), "one two three four five six seven");
    }

    #[test]
    fn every_sign_used_is_in_the_font() {
        for c in "ABCxyz 0123456789.,:;()[]{}|/%+-=<>_^~'\"\u{2212}\u{d7}\u{b7}\u{2248}\u{2264}\u{2265}\u{b1}\u{3b1}\u{3b2}\u{b2}\u{2074}\u{207b}"
            .chars()
        {
            assert_ne!(FONT.glyph_id(c), GlyphId(0), "{c:?}");
        }
    }
}
