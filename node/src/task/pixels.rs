//! An image's way into a tensor: cut, resized, set on its background, normalised. Pure.
//!
//! Resizing weighs all pixels that a new one covers, so that a fine scratch in a large image is not passed over. It
//! goes row by row: beside both images it holds one row, whatever their proportions are.

use half::f16;
use lineside_wire::Datatype;

use crate::settings::{Channels, Filter, Layout, Resize};

/// 8-bit pixels, row by row, one channel (brightness) or three (red, green, blue) each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) channels: usize,
    pub(crate) bytes: Vec<u8>,
}

/// A rectangle, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Area {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

/// Which part of an image comes to which part of the input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Placement {
    /// In the image.
    pub(crate) from: Area,
    /// In the input; whole pixels.
    pub(crate) to: Area,
    image: (u32, u32),
}

impl Placement {
    /// For an image of this size, no side of which is nothing, and an input of that size.
    pub(crate) fn new(image: (u32, u32), input: (u32, u32), resize: Resize, short: Option<u32>) -> Self {
        let (w, h) = (f64::from(image.0), f64::from(image.1));
        let (width, height) = (f64::from(input.0), f64::from(input.1));
        let whole = Area { x: 0.0, y: 0.0, width: w, height: h };
        let full = Area { x: 0.0, y: 0.0, width, height };
        let (from, to) = match resize {
            Resize::Stretch => (whole, full),
            Resize::Fit => {
                let scale = (width / w).min(height / h);
                let (fit_w, fit_h) = ((w * scale).round().max(1.0), (h * scale).round().max(1.0));
                let (x, y) = (((width - fit_w) / 2.0).floor(), ((height - fit_h) / 2.0).floor());
                (whole, Area { x, y, width: fit_w, height: fit_h })
            }
            Resize::Crop => {
                let fill = (width / w).max(height / h);
                let scale = short.map_or(fill, |short| fill.max(f64::from(short) / w.min(h)));
                let (cut_w, cut_h) = ((width / scale).min(w), (height / scale).min(h));
                (Area { x: (w - cut_w) / 2.0, y: (h - cut_h) / 2.0, width: cut_w, height: cut_h }, full)
            }
        };
        Self { from, to, image }
    }

    /// Corners in the input as corners in the image, as far as they lie in it.
    pub(crate) fn to_image(self, corners: [f32; 4]) -> [f32; 4] {
        let Self { from, to, image } = self;
        let x =
            |x: f32| (from.x + (f64::from(x) - to.x) * from.width / to.width).clamp(0.0, f64::from(image.0));
        let y = |y: f32| {
            (from.y + (f64::from(y) - to.y) * from.height / to.height).clamp(0.0, f64::from(image.1))
        };
        let [x0, y0, x1, y1] = corners;
        [x(x0) as f32, y(y0) as f32, x(x1) as f32, y(y1) as f32]
    }
}

/// Brings an image to the input's size: `pad` where the image does not reach.
pub(crate) fn place(
    picture: &Picture,
    placement: &Placement,
    input: (u32, u32),
    filter: Filter,
    pad: [u8; 3],
) -> Picture {
    let to = placement.to;
    let scaled = resample(picture, placement.from, (to.width as u32, to.height as u32), filter);
    if (scaled.width, scaled.height) == input {
        return scaled;
    }
    let channels = scaled.channels;
    let pad = if channels == 1 { vec![brightness(pad)] } else { pad.to_vec() };
    let row = input.0 as usize * channels;
    let mut bytes = pad.repeat(input.0 as usize * input.1 as usize);
    let (left, top) = (to.x as usize * channels, to.y as usize);
    let rows = bytes.chunks_exact_mut(row).skip(top);
    for (target, source) in rows.zip(scaled.bytes.chunks_exact(scaled.width as usize * channels)) {
        target[left..left + source.len()].copy_from_slice(source);
    }
    Picture { width: input.0, height: input.1, channels, bytes }
}

/// What one new pixel takes from the old ones.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// The taps of `count` new pixels over the stretch of `length` old ones from `start`, of `limit` that there are.
fn taps(start: f64, length: f64, limit: u32, count: u32, filter: Filter) -> Vec<Taps> {
    let limit = limit as usize;
    let step = length / f64::from(count);
    let reach = match filter {
        Filter::Nearest => 0.0,
        Filter::Bilinear => 1.0,
        Filter::Bicubic => 2.0,
    };
    let wide = step.max(1.0);
    let one = |at: u32| {
        let centre = start + (f64::from(at) + 0.5) * step;
        if filter == Filter::Nearest {
            return Taps { first: (centre.max(0.0) as usize).min(limit - 1), weights: vec![1.0] };
        }
        let first = ((centre - reach * wide + 0.5).max(0.0) as usize).min(limit - 1);
        let end = ((centre + reach * wide + 0.5) as usize).clamp(first + 1, limit);
        let weight = |old: usize| kernel(filter, (old as f64 + 0.5 - centre) / wide);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        Taps { first, weights: weights.iter().map(|weight| (weight / sum) as f32).collect() }
    };
    (0..count).map(one).collect()
}

fn kernel(filter: Filter, distance: f64) -> f64 {
    let d = distance.abs();
    match filter {
        Filter::Nearest => 1.0,
        Filter::Bilinear => (1.0 - d).max(0.0),
        // Catmull and Rom's, which goes through the pixels.
        Filter::Bicubic if d < 1.0 => (1.5 * d - 2.5) * d * d + 1.0,
        Filter::Bicubic if d < 2.0 => ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0,
        Filter::Bicubic => 0.0,
    }
}

/// A part of a picture at another size.
pub(crate) fn resample(picture: &Picture, from: Area, size: (u32, u32), filter: Filter) -> Picture {
    let channels = picture.channels;
    let columns = taps(from.x, from.width, picture.width, size.0, filter);
    let rows = taps(from.y, from.height, picture.height, size.1, filter);
    let line = picture.width as usize * channels;
    let mut sums = vec![0.0_f32; line];
    let mut bytes = Vec::with_capacity(size.0 as usize * size.1 as usize * channels);
    for row in &rows {
        sums.fill(0.0);
        let old = picture.bytes.chunks_exact(line).skip(row.first);
        for (old, weight) in old.zip(&row.weights) {
            for (sum, value) in sums.iter_mut().zip(old) {
                *sum += weight * f32::from(*value);
            }
        }
        for column in &columns {
            for channel in 0..channels {
                let values = sums.iter().skip(column.first * channels + channel).step_by(channels);
                let value: f32 = column.weights.iter().zip(values).map(|(weight, sum)| weight * sum).sum();
                bytes.push(value.round().clamp(0.0, 255.0) as u8);
            }
        }
    }
    Picture { width: size.0, height: size.1, channels, bytes }
}

/// The brightness of a colour, as televisions without colour showed it (ITU-R BT.601) and as image libraries have it.
pub(crate) fn brightness([red, green, blue]: [u8; 3]) -> u8 {
    let sum = 299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) + 500;
    (sum / 1000) as u8
}

/// How pixels become elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Elements {
    pub(crate) channels: Channels,
    pub(crate) layout: Layout,
    /// FP32, FP16 or UINT8.
    pub(crate) datatype: Datatype,
    pub(crate) scale: f32,
    /// One for each channel.
    pub(crate) mean: Vec<f32>,
    pub(crate) std: Vec<f32>,
}

impl Elements {
    /// The picture's elements as the input has them, little-endian.
    pub(crate) fn of(&self, picture: &Picture) -> Vec<u8> {
        let count = self.channels.count();
        let pixels = picture.width as usize * picture.height as usize;
        let mut bytes = Vec::with_capacity(pixels * count * self.datatype.width().unwrap_or(1));
        let tables: Vec<Vec<u8>> = (0..count).map(|channel| self.table(channel)).collect();
        let width = self.datatype.width().unwrap_or(1);
        let mut push = |pixel: usize, channel: usize| {
            let value = usize::from(self.value(picture, pixel, channel));
            bytes.extend_from_slice(&tables[channel][value * width..(value + 1) * width]);
        };
        match self.layout {
            Layout::Nchw => (0..count).for_each(|channel| (0..pixels).for_each(|pixel| push(pixel, channel))),
            Layout::Nhwc => (0..pixels).for_each(|pixel| (0..count).for_each(|channel| push(pixel, channel))),
        }
        bytes
    }

    fn value(&self, picture: &Picture, pixel: usize, channel: usize) -> u8 {
        let at = pixel * picture.channels;
        if picture.channels == 1 {
            return picture.bytes[at];
        }
        let [red, green, blue] = [picture.bytes[at], picture.bytes[at + 1], picture.bytes[at + 2]];
        match self.channels {
            Channels::Rgb => [red, green, blue][channel],
            Channels::Bgr => [blue, green, red][channel],
            Channels::Gray => brightness([red, green, blue]),
        }
    }

    /// The element of each of the 256 values that a pixel can have.
    fn table(&self, channel: usize) -> Vec<u8> {
        let (mean, std) = (self.mean[channel], self.std[channel]);
        let element = |value: u8| (f32::from(value) * self.scale - mean) / std;
        match self.datatype {
            Datatype::Uint8 => (0..=u8::MAX).collect(),
            Datatype::Fp16 => {
                (0..=u8::MAX).flat_map(|value| f16::from_f32(element(value)).to_le_bytes()).collect()
            }
            _ => (0..=u8::MAX).flat_map(|value| element(value).to_le_bytes()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gray(width: u32, bytes: &[u8]) -> Picture {
        Picture { width, height: bytes.len() as u32 / width, channels: 1, bytes: bytes.to_vec() }
    }

    fn stretched(picture: &Picture, size: (u32, u32), filter: Filter) -> Vec<u8> {
        let placement = Placement::new((picture.width, picture.height), size, Resize::Stretch, None);
        place(picture, &placement, size, filter, [0; 3]).bytes
    }

    #[test]
    fn a_new_pixel_is_made_of_all_that_it_covers() {
        let line = gray(4, &[0, 0, 200, 200]);
        assert_eq!(stretched(&line, (2, 1), Filter::Nearest), [0, 200]);
        assert_eq!(stretched(&line, (1, 1), Filter::Bilinear), [100]);
        let scratch = gray(8, &[0, 0, 0, 255, 0, 0, 0, 0]);
        assert_eq!(stretched(&scratch, (1, 1), Filter::Nearest), [0]);
        assert!(20 < stretched(&scratch, (1, 1), Filter::Bilinear)[0]);
        assert_eq!(stretched(&gray(2, &[0, 100]), (4, 1), Filter::Bilinear), [0, 25, 75, 100]);
    }

    #[test]
    fn a_picture_that_fits_gets_bars_and_boxes_find_their_way_back() {
        let picture = gray(4, &[200; 8]);
        let placement = Placement::new((4, 2), (4, 4), Resize::Fit, None);
        let placed = place(&picture, &placement, (4, 4), Filter::Bilinear, [9; 3]);
        assert_eq!(placed.bytes, [&[9; 4][..], &[200; 8], &[9; 4]].concat());
        assert_eq!(placement.to_image([0.0, 1.0, 4.0, 3.0]), [0.0, 0.0, 4.0, 2.0]);
        assert_eq!(
            placement.to_image([-5.0, 0.0, 9.0, 4.0]),
            [0.0, 0.0, 4.0, 2.0],
            "no box leaves the image"
        );
        let half = Placement::new((400, 200), (100, 100), Resize::Fit, None);
        assert_eq!(half.to_image([10.0, 35.0, 20.0, 45.0]), [40.0, 40.0, 80.0, 80.0]);
    }

    #[test]
    fn a_crop_takes_the_middle() {
        let wide = gray(4, &[1, 50, 50, 1, 1, 50, 50, 1]);
        let placement = Placement::new((4, 2), (2, 2), Resize::Crop, None);
        assert_eq!(place(&wide, &placement, (2, 2), Filter::Bilinear, [0; 3]).bytes, [50; 4]);
        assert_eq!(placement.to_image([0.0, 0.0, 2.0, 2.0]), [1.0, 0.0, 3.0, 2.0]);
        // As image networks are tested: the short side to 256, of which 224 are cut out.
        let usual = Placement::new((512, 1024), (224, 224), Resize::Crop, Some(256));
        assert_eq!(usual.from, Area { x: 32.0, y: 288.0, width: 448.0, height: 448.0 });
    }

    #[test]
    fn channels_and_layouts_are_as_the_model_wants_them() {
        let picture = Picture { width: 2, height: 1, channels: 3, bytes: vec![10, 20, 30, 40, 50, 60] };
        let bytes = |channels: Channels, layout| {
            let ones = vec![1.0; channels.count()];
            let mean = vec![0.0; channels.count()];
            Elements { channels, layout, datatype: Datatype::Uint8, scale: 1.0, mean, std: ones }.of(&picture)
        };
        assert_eq!(bytes(Channels::Rgb, Layout::Nchw), [10, 40, 20, 50, 30, 60]);
        assert_eq!(bytes(Channels::Bgr, Layout::Nhwc), [30, 20, 10, 60, 50, 40]);
        assert_eq!(bytes(Channels::Gray, Layout::Nchw), [18, 48]);
        let elements = Elements {
            channels: Channels::Rgb,
            layout: Layout::Nhwc,
            datatype: Datatype::Fp32,
            scale: 0.1,
            mean: vec![1.0, 2.0, 3.0],
            std: vec![1.0, 2.0, 0.5],
        };
        let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&elements.of(&picture));
        assert_eq!(floats, [0.0, 0.0, 0.0, 3.0, 1.5, 6.0]);
        let halves = Elements { datatype: Datatype::Fp16, ..elements }.of(&picture);
        assert_eq!(halves.len(), 12);
        assert_eq!(f16::from_le_bytes([halves[8], halves[9]]).to_f32(), 1.5);
    }

    #[test]
    fn brightness_of_a_grey_colour_is_itself() {
        assert!((0..=u8::MAX).all(|value| brightness([value; 3]) == value));
    }

    proptest! {
        #[test]
        fn a_plain_picture_stays_plain_and_every_size_comes_out(
            image in (1_u32..40, 1_u32..40), size in (1_u32..30, 1_u32..30), value: u8, colour: bool,
            filter in prop::sample::select(vec![Filter::Nearest, Filter::Bilinear, Filter::Bicubic]),
            resize in prop::sample::select(vec![Resize::Stretch, Resize::Fit, Resize::Crop]),
            short in prop::option::of(30_u32..60),
        ) {
            let channels = if colour { 3 } else { 1 };
            let bytes = vec![value; (image.0 * image.1) as usize * channels];
            let picture = Picture { width: image.0, height: image.1, channels, bytes };
            let placement = Placement::new(image, size, resize, short);
            let placed = place(&picture, &placement, size, filter, [value; 3]);
            prop_assert_eq!((placed.width, placed.height), size);
            prop_assert_eq!(placed.bytes, vec![value; (size.0 * size.1) as usize * channels]);
        }

        #[test]
        fn a_picture_of_the_right_size_is_not_touched(bytes in prop::collection::vec(any::<u8>(), 30), crop: bool) {
            let resize = if crop { Resize::Crop } else { Resize::Stretch };
            let placement = Placement::new((5, 6), (5, 6), resize, None);
            for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic] {
                let same = place(&gray(5, &bytes), &placement, (5, 6), filter, [0; 3]);
                prop_assert_eq!(&same.bytes, &bytes);
            }
        }
    }
}
