//! Drawings to train super-resolution on, of what wallpapers lack: facades, gratings, grids, text, and shapes with hard edges.
//!
//! Each is drawn at four times its side and averaged, so that edges are as a lens would leave them, and depends on its
//! number alone. Nothing of anybody else's is in them but the outlines of letters.

use anyhow::Context;
use std::f32::consts::TAU;
use std::path::Path;
use tiny_skia::{
    Color, FillRule, GradientStop, LinearGradient, Paint, Path as Outline, PathBuilder, Pixmap, Point, Rect, Shader,
    SpreadMode, Stroke, Transform,
};
use ttf_parser::{Face, OutlineBuilder};

/// Side of a drawing.
const SIDE: u32 = 512;
/// Side of what is drawn.
const LARGE: f32 = (SIDE * 4) as f32;

/// Draws number `number` into `file`, a PNG.
pub fn draw(number: u64, faces: &[Face], file: &Path) -> anyhow::Result<()> {
    let mut canvas = Canvas::new(number).context("no memory for a drawing")?;
    match number % 5 {
        0 => canvas.facade(),
        1 => canvas.grating(),
        2 => canvas.grid(),
        3 if !faces.is_empty() => canvas.text(faces),
        _ => canvas.shapes(),
    }
    let reduced = canvas.reduced().context("no memory for a drawing")?;
    reduced.save_png(file).with_context(|| format!("cannot write {}", file.display()))
}

/// Random numbers: splitmix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    fn chance(&mut self, share: f32) -> bool {
        self.between(0.0, 1.0) < share
    }

    /// A colour of a brightness in `low..high`, seldom strong.
    fn color(&mut self, low: f32, high: f32) -> Color {
        let (base, spread) = (self.between(low, high), self.between(0.0, 0.25));
        let mut channel = || (base + self.between(-spread, spread)).clamp(0.0, 1.0);
        let (red, green, blue) = (channel(), channel(), channel());
        Color::from_rgba(red, green, blue, 1.0).expect("channels are within 0..1")
    }
}

/// A plane seen from somewhere: maps points of the unit square.
struct View([f32; 8]);

impl View {
    /// A plane that fills the drawing and leans away in a random direction.
    fn random(random: &mut Random) -> View {
        let turn = if random.chance(0.5) { random.between(-0.6, 0.6) } else { random.between(-0.08, 0.08) };
        let (sin, cos) = turn.sin_cos();
        let scale = LARGE * random.between(1.1, 1.8);
        let (lean_x, lean_y) = (random.between(-0.45, 0.45), random.between(-0.45, 0.45));
        View([scale * cos, -scale * sin, LARGE / 2.0, scale * sin, scale * cos, LARGE / 2.0, lean_x, lean_y])
    }

    fn at(&self, x: f32, y: f32) -> Point {
        let [a, b, c, d, e, f, g, h] = self.0;
        let (x, y) = (x - 0.5, y - 0.5);
        // What leans towards the eye stays before it.
        let depth = (1.0 + g * x + h * y).max(0.2);
        Point::from_xy((a * x + b * y) / depth + c, (d * x + e * y) / depth + f)
    }

    /// A rectangle of the plane.
    fn rectangle(&self, left: f32, top: f32, right: f32, bottom: f32) -> Option<Outline> {
        polygon(&[self.at(left, top), self.at(right, top), self.at(right, bottom), self.at(left, bottom)])
    }
}

fn polygon(points: &[Point]) -> Option<Outline> {
    let mut builder = PathBuilder::new();
    let (first, rest) = points.split_first()?;
    builder.move_to(first.x, first.y);
    for point in rest {
        builder.line_to(point.x, point.y);
    }
    builder.close();
    builder.finish()
}

struct Canvas {
    pixels: Pixmap,
    random: Random,
}

impl Canvas {
    fn new(number: u64) -> Option<Canvas> {
        let mut random = Random(number.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let mut pixels = Pixmap::new(SIDE * 4, SIDE * 4)?;
        pixels.fill(random.color(0.0, 1.0));
        Some(Canvas { pixels, random })
    }

    fn fill(&mut self, outline: Option<Outline>, color: Color) {
        let Some(outline) = outline else { return };
        let paint = Paint { shader: Shader::SolidColor(color), ..Paint::default() };
        self.pixels.fill_path(&outline, &paint, FillRule::Winding, Transform::identity(), None);
    }

    /// A wall of windows, with frames, bars, sills and cladding.
    fn facade(&mut self) {
        let view = View::random(&mut self.random);
        let r = &mut self.random;
        let (columns, rows) = (5 + r.below(36), 5 + r.below(36));
        let (wide, high) = (r.between(0.35, 0.9) / columns as f32, r.between(0.35, 0.9) / rows as f32);
        let (wall, frame, sill) = (r.color(0.25, 0.9), r.color(0.0, 1.0), r.color(0.7, 1.0));
        let (glass, varied) = (r.between(0.0, 0.7), r.between(0.0, 0.25));
        let (bars, sills, cladding) = (r.below(4), r.chance(0.5), r.chance(0.4));
        self.fill(view.rectangle(-1.0, -1.0, 2.0, 2.0), wall);
        if cladding {
            let (color, lines) = (self.random.color(0.0, 1.0), rows * (3 + self.random.below(4)));
            for line in 0..3 * lines {
                let y = line as f32 / lines as f32 - 1.0;
                self.fill(view.rectangle(-1.0, y, 2.0, y + 0.2 / lines as f32), color);
            }
        }
        for row in 0..2 * rows {
            for column in 0..2 * columns {
                let x = column as f32 / columns as f32 - 0.5;
                let y = row as f32 / rows as f32 - 0.5;
                let (edge_x, edge_y) = (0.06 / columns as f32, 0.06 / rows as f32);
                self.fill(view.rectangle(x - edge_x, y - edge_y, x + wide + edge_x, y + high + edge_y), frame);
                let pane = self.random.color(glass, glass + varied + 0.01);
                self.fill(view.rectangle(x, y, x + wide, y + high), pane);
                for bar in 1..=bars {
                    let at = x + wide * bar as f32 / (bars + 1) as f32;
                    self.fill(view.rectangle(at - edge_x / 3.0, y, at + edge_x / 3.0, y + high), frame);
                }
                if sills {
                    self.fill(view.rectangle(x - edge_x, y + high, x + wide + edge_x, y + high + edge_y), sill);
                }
            }
        }
    }

    /// Stripes whose width changes along the picture, in bands that differ in direction.
    fn grating(&mut self) {
        for _ in 0..2 + self.random.below(4) {
            let view = View::random(&mut self.random);
            let r = &mut self.random;
            let (dark, light) = (r.color(0.0, 0.5), r.color(0.4, 1.0));
            let (left, top) = (r.between(-0.5, 0.6), r.between(-0.5, 0.6));
            let (right, bottom) = (left + r.between(0.3, 1.2), top + r.between(0.3, 1.2));
            let (first, growth, share) = (r.between(0.004, 0.02), r.between(1.0, 1.08), r.between(0.3, 0.7));
            self.fill(view.rectangle(left, top, right, bottom), light);
            let (mut x, mut period) = (left, first);
            while x < right {
                self.fill(view.rectangle(x, top, (x + period * share).min(right), bottom), dark);
                x += period;
                period *= growth;
            }
        }
    }

    /// Two families of lines that cross, some of them over a second plane.
    fn grid(&mut self) {
        for _ in 0..1 + self.random.below(2) {
            let view = View::random(&mut self.random);
            let r = &mut self.random;
            let (ground, line) = (r.color(0.0, 1.0), r.color(0.0, 1.0));
            let (columns, rows) = (6 + r.below(60), 6 + r.below(60));
            let (thick, bricks) = (r.between(0.05, 0.3), r.chance(0.4));
            self.fill(view.rectangle(-0.2, -0.2, 1.2, 1.2), ground);
            for row in 0..=rows {
                let y = row as f32 / rows as f32;
                self.fill(view.rectangle(0.0, y, 1.0, y + thick / rows as f32), line);
                for column in 0..=columns {
                    let shift = if bricks && row % 2 == 1 { 0.5 } else { 0.0 };
                    let x = (column as f32 + shift) / columns as f32;
                    let bottom = (row + 1) as f32 / rows as f32;
                    self.fill(view.rectangle(x, y, x + thick / columns as f32, bottom), line);
                }
            }
        }
    }

    /// Overlapping circles, polygons, curves and gradients.
    fn shapes(&mut self) {
        for _ in 0..25 + self.random.below(90) {
            let r = &mut self.random;
            let (x, y) = (r.between(0.0, LARGE), r.between(0.0, LARGE));
            let size = LARGE * r.between(0.02, 0.3) * r.between(0.2, 1.0);
            let color = r.color(0.0, 1.0);
            let outline = match r.below(4) {
                0 => PathBuilder::from_circle(x, y, size),
                1 => Rect::from_xywh(x - size / 2.0, y - size / 2.0, size, size * r.between(0.1, 1.0))
                    .map(PathBuilder::from_rect),
                2 => {
                    let corners = 3 + r.below(6);
                    let corner = |i: usize, r: &mut Random| {
                        let (sin, cos) = (TAU * i as f32 / corners as f32).sin_cos();
                        let radius = size * r.between(0.3, 1.0);
                        Point::from_xy(x + radius * cos, y + radius * sin)
                    };
                    polygon(&(0..corners).map(|i| corner(i, r)).collect::<Vec<_>>())
                }
                _ => {
                    self.curve(x, y, size, color);
                    continue;
                }
            };
            let Some(outline) = outline else { continue };
            let shader = if r.chance(0.3) {
                let other = r.color(0.0, 1.0);
                let stops = vec![GradientStop::new(0.0, color), GradientStop::new(1.0, other)];
                let ends = (Point::from_xy(x - size, y - size), Point::from_xy(x + size, y + size));
                LinearGradient::new(ends.0, ends.1, stops, SpreadMode::Pad, Transform::identity())
            } else {
                None
            };
            let paint = Paint { shader: shader.unwrap_or(Shader::SolidColor(color)), ..Paint::default() };
            self.pixels.fill_path(&outline, &paint, FillRule::EvenOdd, Transform::identity(), None);
        }
    }

    /// A line that bends.
    fn curve(&mut self, x: f32, y: f32, size: f32, color: Color) {
        let r = &mut self.random;
        let mut near = || (x + r.between(-3.0, 3.0) * size, y + r.between(-3.0, 3.0) * size);
        let ((ax, ay), (bx, by), (cx, cy)) = (near(), near(), near());
        let mut builder = PathBuilder::new();
        builder.move_to(x, y);
        builder.cubic_to(ax, ay, bx, by, cx, cy);
        let stroke = Stroke { width: r.between(3.0, 40.0), ..Stroke::default() };
        let paint = Paint { shader: Shader::SolidColor(color), ..Paint::default() };
        if let Some(outline) = builder.finish() {
            self.pixels.stroke_path(&outline, &paint, &stroke, Transform::identity(), None);
        }
    }

    /// Lines of random words, in one size a drawing or in many.
    fn text(&mut self, faces: &[Face]) {
        let r = &mut self.random;
        let dark = r.chance(0.5);
        let (paper, ink) =
            if dark { (r.color(0.0, 0.3), r.color(0.6, 1.0)) } else { (r.color(0.7, 1.0), r.color(0.0, 0.4)) };
        self.pixels.fill(paper);
        let turn = if r.chance(0.3) { r.between(-20.0, 20.0) } else { 0.0 };
        let turn = Transform::from_rotate_at(turn, LARGE / 2.0, LARGE / 2.0);
        let mut y = -0.2 * LARGE;
        while y < 1.2 * LARGE {
            let r = &mut self.random;
            let face = &faces[r.below(faces.len())];
            // 8 to 40 pixels in the drawing.
            let size = 4.0 * r.between(8.0, 40.0) * r.between(0.4, 1.0).max(0.5);
            let mut x = -0.2 * LARGE;
            while x < 1.2 * LARGE {
                let letters = 1 + self.random.below(9);
                for _ in 0..letters {
                    let letter = self.letter();
                    x += self.glyph(face, letter, size, Transform::from_translate(x, y).post_concat(turn), ink);
                }
                x += size * 0.3;
            }
            y += size * self.random.between(1.1, 1.5);
        }
    }

    fn letter(&mut self) -> char {
        const LETTERS: &[u8] = b"eeettaoinsrhldcumfpgwybvkxjqzABCDEFGHIKLMNOPRSTUVW0123456789.,;:-()%&";
        char::from(LETTERS[self.random.below(LETTERS.len())])
    }

    /// Draws a letter and returns its width.
    fn glyph(&mut self, face: &Face, letter: char, size: f32, at: Transform, ink: Color) -> f32 {
        let scale = size / f32::from(face.units_per_em());
        let Some(id) = face.glyph_index(letter) else { return 0.0 };
        let mut builder = Glyph { builder: PathBuilder::new(), scale };
        face.outline_glyph(id, &mut builder);
        if let Some(outline) = builder.builder.finish() {
            let paint = Paint { shader: Shader::SolidColor(ink), ..Paint::default() };
            self.pixels.fill_path(&outline, &paint, FillRule::Winding, at, None);
        }
        face.glyph_hor_advance(id).map_or(0.0, |width| f32::from(width) * scale)
    }

    /// Averages of 4 by 4 pixels.
    fn reduced(&self) -> Option<Pixmap> {
        let mut small = Pixmap::new(SIDE, SIDE)?;
        let (side, from) = (SIDE as usize, self.pixels.data());
        for (i, pixel) in small.data_mut().chunks_exact_mut(4).enumerate() {
            let (x, y) = (i % side * 4, i / side * 4);
            for (channel, sample) in pixel.iter_mut().enumerate() {
                let row = |dy: usize| (0..4).map(move |dx| ((y + dy) * side * 4 + x + dx) * 4 + channel);
                let sum: u32 = (0..4).flat_map(row).map(|at| u32::from(from[at])).sum();
                *sample = ((sum + 8) / 16) as u8;
            }
        }
        Some(small)
    }
}

/// Outlines of letters: upwards is negative in pictures.
struct Glyph {
    builder: PathBuilder,
    scale: f32,
}

impl OutlineBuilder for Glyph {
    fn move_to(&mut self, x: f32, y: f32) {
        self.builder.move_to(x * self.scale, -y * self.scale);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.builder.line_to(x * self.scale, -y * self.scale);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let s = self.scale;
        self.builder.quad_to(x1 * s, -y1 * s, x * s, -y * s);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let s = self.scale;
        self.builder.cubic_to(x1 * s, -y1 * s, x2 * s, -y2 * s, x * s, -y * s);
    }

    fn close(&mut self) {
        self.builder.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_depends_on_its_number_alone_and_is_not_plain() {
        for number in 0..10 {
            let made = || {
                let file = std::env::temp_dir().join(format!("supple-drawing-{}-{number}.png", std::process::id()));
                draw(number, &[], &file).unwrap();
                let pixels = Pixmap::load_png(&file).unwrap();
                std::fs::remove_file(&file).unwrap();
                pixels
            };
            let drawing = made();
            assert_eq!((drawing.width(), drawing.height()), (SIDE, SIDE));
            assert_eq!(drawing, made(), "drawing {number}");
            let first = drawing.pixels()[0];
            assert!(drawing.pixels().iter().any(|&pixel| pixel != first), "drawing {number} is of one colour");
            assert!(drawing.pixels().iter().all(|pixel| pixel.alpha() == 255), "drawing {number} is not opaque");
        }
    }
}
