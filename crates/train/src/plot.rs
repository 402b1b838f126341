//! Curves of a run: loss, learning rate and validation PSNR over steps, one chart below the other.
//!
//! Text is drawn from a bitmap font of 8×8 pixels, so that no font of the system is needed.

use crate::{Error, Metric};
use font8x8::UnicodeFonts;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendStyle, BackendTextStyle, DrawingErrorKind};
use std::collections::BTreeMap;

/// A picture of 8-bit red, green, blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Interleaved samples.
    pub samples: Vec<u8>,
}

const WIDTH: usize = 1000;
const CHART: usize = 260;

/// What is drawn, its title, and whether on a logarithmic axis.
type Curve = (&'static str, fn(&Metric) -> Option<f64>, bool);

const CURVES: [Curve; 3] = [
    ("loss", |m| m.loss.map(f64::from), true),
    ("validation PSNR (dB)", |m| m.psnr, false),
    ("learning rate", |m| m.learning_rate, true),
];

/// Draws the curves of `metrics`.
///
/// # Errors
/// If there is nothing to draw.
pub fn plot(metrics: &[Metric]) -> Result<Plot, Error> {
    let x = steps(metrics);
    let curves: Vec<(&Curve, Vec<(f64, f64)>)> = CURVES
        .iter()
        .map(|curve| {
            let value = |m: &Metric| curve.1(m).filter(|v| v.is_finite() && (*v > 0.0 || !curve.2));
            (curve, metrics.iter().zip(&x).filter_map(|(m, &x)| Some((x, value(m)?))).collect())
        })
        .filter(|(_, points): &(_, Vec<_>)| !points.is_empty())
        .collect();
    if curves.is_empty() {
        return Err(Error::Plot("there are no values".into()));
    }
    let (width, height) = (WIDTH, CHART * curves.len());
    let mut samples = vec![255; width * height * 3];
    {
        let backend = Bitmap(BitMapBackend::with_buffer(&mut samples, (width as u32, height as u32)));
        let areas = backend.into_drawing_area().split_evenly((curves.len(), 1));
        for (area, ((title, _, log), points)) in areas.iter().zip(&curves) {
            chart(area, title, points, *log).map_err(|error| Error::Plot(error.to_string()))?;
        }
        areas.iter().try_for_each(|area| area.present()).map_err(|error| Error::Plot(error.to_string()))?;
    }
    Ok(Plot { width, height, samples })
}

/// The number of each metric's step, counted through all stages.
fn steps(metrics: &[Metric]) -> Vec<f64> {
    let mut last: BTreeMap<usize, usize> = BTreeMap::new();
    for metric in metrics {
        let step = last.entry(metric.stage).or_default();
        *step = (*step).max(metric.step);
    }
    let before = |stage: usize| last.range(..stage).map(|(_, steps)| steps).sum::<usize>();
    metrics.iter().map(|metric| (before(metric.stage) + metric.step) as f64).collect()
}

type Area<'a> = DrawingArea<Bitmap<'a>, Shift>;
type Failure<'a> = DrawingAreaErrorKind<<Bitmap<'a> as DrawingBackend>::ErrorType>;

fn chart<'a>(area: &Area<'a>, title: &str, points: &[(f64, f64)], log: bool) -> Result<(), Failure<'a>> {
    let ends = |value: fn(&(f64, f64)) -> f64| {
        let values = points.iter().map(value);
        (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
    };
    let ((left, right), (low, high)) = (ends(|p| p.0), ends(|p| p.1));
    let right = if right > left { right } else { left + 1.0 };
    let logarithm = |y: f64| if log { y.log10() } else { y };
    let (low, high) = (logarithm(low), logarithm(high));
    // Room above and below; a flat curve gets some too.
    let room = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-9);
    let mut builder = ChartBuilder::on(area);
    builder.margin(14).caption(title, ("bitmap", 16)).x_label_area_size(26).y_label_area_size(76);
    let mut chart = builder.build_cartesian_2d(left..right, low - room..high + room)?;
    let mut mesh = chart.configure_mesh();
    mesh.label_style(("bitmap", 8)).light_line_style(WHITE).bold_line_style(RGBColor(225, 225, 225));
    let label = |y: &f64| if log { format!("{:.2e}", 10f64.powf(*y)) } else { format!("{y:.2}") };
    mesh.x_labels(8).y_labels(6).x_label_formatter(&|x| format!("{x:.0}")).y_label_formatter(&label);
    mesh.draw()?;
    let style = ShapeStyle { color: RGBColor(31, 92, 153).to_rgba(), filled: false, stroke_width: 2 };
    chart.draw_series(LineSeries::new(points.iter().map(|&(x, y)| (x, logarithm(y))), style))?;
    Ok(())
}

/// A bitmap whose text comes from the font of 8×8 pixels, enlarged by whole factors.
struct Bitmap<'a>(BitMapBackend<'a>);

impl<'a> DrawingBackend for Bitmap<'a> {
    type ErrorType = <BitMapBackend<'a> as DrawingBackend>::ErrorType;

    fn get_size(&self) -> (u32, u32) {
        self.0.get_size()
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.ensure_prepared()
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.present()
    }

    fn draw_pixel(&mut self, at: (i32, i32), color: BackendColor) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.draw_pixel(at, color)
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: (i32, i32),
        to: (i32, i32),
        style: &S,
    ) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        self.0.draw_line(from, to, style)
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): (i32, i32),
    ) -> Result<(), DrawingErrorKind<Self::ErrorType>> {
        let factor = factor(style);
        let (width, height) = (8 * factor * text.chars().count() as i32, 8 * factor);
        let anchor = style.anchor();
        let left = match anchor.h_pos {
            HPos::Left => x,
            HPos::Center => x - width / 2,
            HPos::Right => x - width,
        };
        let top = match anchor.v_pos {
            VPos::Top => y,
            VPos::Center => y - height / 2,
            VPos::Bottom => y - height,
        };
        for (i, letter) in text.chars().enumerate() {
            let rows = font8x8::BASIC_FONTS.get(letter).unwrap_or([0; 8]);
            for (row, bits) in rows.into_iter().enumerate() {
                for column in (0..8).filter(|column| bits >> column & 1 != 0) {
                    let (x, y) = (left + factor * (8 * i as i32 + column), top + factor * row as i32);
                    for at in (0..factor * factor).map(|p| (x + p % factor, y + p / factor)) {
                        self.0.draw_pixel(at, style.color())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Self::ErrorType>> {
        let side = 8 * factor(style) as u32;
        Ok((side * text.chars().count() as u32, side))
    }
}

fn factor(style: &impl BackendTextStyle) -> i32 {
    ((style.size() / 8.0).round() as i32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_go_from_where_they_begin_to_where_they_end() {
        let metric = |step: usize| Metric {
            stage: 1,
            step,
            loss: Some(1.0 / step as f32),
            learning_rate: Some(1e-3),
            ..Metric::default()
        };
        let metrics: Vec<Metric> = (1..=50).map(metric).collect();
        let plot = plot(&metrics).unwrap();
        assert_eq!((plot.width, plot.height, plot.samples.len()), (WIDTH, 2 * CHART, WIDTH * 2 * CHART * 3));
        let blue = |x: usize, y: usize| plot.samples[(y * WIDTH + x) * 3..][..3] == [31, 92, 153];
        let column = |x: usize| (0..CHART).filter(|&y| blue(x, y)).collect::<Vec<_>>();
        let drawn: Vec<usize> = (0..WIDTH).filter(|&x| !column(x).is_empty()).collect();
        let (first, last) = (column(drawn[0])[0], column(*drawn.last().unwrap())[0]);
        assert!(first < 90 && last > 150, "the loss falls from {first} to {last}");
        let dark = plot.samples.chunks(3).filter(|p| p.iter().all(|&v| v < 60)).count();
        assert!(dark > 500, "text is drawn: {dark} dark pixels");
        assert!(super::plot(&[]).is_err());
    }

    #[test]
    fn stages_follow_each_other() {
        let metric = |stage, step| Metric { stage, step, ..Metric::default() };
        assert_eq!(steps(&[metric(1, 5), metric(1, 10), metric(2, 5), metric(3, 1)]), [5.0, 10.0, 15.0, 16.0]);
    }
}
