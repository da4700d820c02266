//! Reads JPEG and PNG files. The only file that names `image`.
//!
//! What a file says of its size is looked at before memory is taken for its pixels, and a file that ends early is
//! refused: the grey that a decoder fills the rest with would pass for a clean part.

use std::io::Cursor;

use image::{
    DynamicImage, ImageDecoder, Limits,
    codecs::{jpeg::JpegDecoder, png::PngDecoder},
};

use super::pixels::{Picture, brightness};
use crate::engine::{clipped, guarded};

/// Most pixels of an image: beyond the sensors of the line (a 45 megapixel camera fits), and a bound for memory, of
/// which decoding takes up to ten bytes a pixel.
pub(crate) const IMAGE_PIXELS_MAX: u64 = 50_000_000;

/// Longest side of an image: a line camera's 16,384 twice. Rows of any length would make resizing long at few pixels.
pub(crate) const IMAGE_SIDE_MAX: u32 = 32_768;

/// Most bytes that a decoder takes for pixels: 50 megapixels of four bytes, and what 16 bits a channel leave of them.
const DECODED_BYTES_MAX: u64 = 200_000_000;

/// Most parts of a file (segments of a JPEG, chunks of a PNG): the smallest that are in use, of 4 KB, make 16,000 of 64
/// MiB. Each costs the decoder more than its few bytes cost their sender.
const PARTS_MAX: usize = 32_768;

/// Longest complaint of a decoder that is passed on, in characters.
const COMPLAINT_CHARS_MAX: usize = 200;

/// Decodes a file: upright as its orientation says, transparent parts over black, 8 bits a channel. `gray` is for who
/// needs the brightness alone.
///
/// # Errors
/// In words for who sent it.
pub(crate) fn decode(file: &[u8], gray: bool) -> Result<Picture, String> {
    // A decoder that panics on a file is that file's fault alone.
    guarded(|| decode_file(file, gray)).unwrap_or_else(|panic| {
        Err(format!("the image cannot be decoded: {}", clipped(&panic, COMPLAINT_CHARS_MAX)))
    })
}

fn decode_file(file: &[u8], gray: bool) -> Result<Picture, String> {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    if file.starts_with(b"\xff\xd8\xff") {
        let seen = jpeg_pixels(file)?;
        let mut decoder = JpegDecoder::new(Cursor::new(file)).map_err(|error| broken("JPEG", &error))?;
        fits(decoder.dimensions(), decoder.total_bytes())?;
        decoder.set_limits(limits).map_err(|error| broken("JPEG", &error))?;
        let (width, height) = decoder.dimensions();
        // Eight by eight pixels take one bit at the least.
        let blocks = u64::from(width.div_ceil(8)) * u64::from(height.div_ceil(8));
        if seen.is_none_or(|bytes| (bytes as u64) < blocks / 8) {
            return Err("the JPEG file ends early: a part of it was not sent".to_owned());
        }
        pixels("JPEG", decoder, gray)
    } else if let Some(rest) = file.strip_prefix(b"\x89PNG\r\n\x1a\n") {
        // Before the decoder reads on: its first chunk says how large the image is.
        if let Some(size) = png_size(rest) {
            fits(size, 0)?;
        }
        count_chunks(rest)?;
        let decoder = PngDecoder::with_limits(Cursor::new(file), limits);
        let decoder = decoder.map_err(|error| broken("PNG", &error))?;
        fits(decoder.dimensions(), decoder.total_bytes())?;
        pixels("PNG", decoder, gray)
    } else {
        Err(format!("not a JPEG or PNG: it begins with {}", beginning(file)))
    }
}

fn broken(kind: &str, error: &image::ImageError) -> String {
    format!("the {kind} file is broken: {}", clipped(error.to_string().trim_end(), COMPLAINT_CHARS_MAX))
}

fn fits((width, height): (u32, u32), bytes: u64) -> Result<(), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(format!("the image has {width} x {height} pixels: nothing can be seen on it"));
    }
    if IMAGE_PIXELS_MAX < pixels {
        return Err(format!(
            "the image has {width} x {height} pixels: at most {IMAGE_PIXELS_MAX} are decoded"
        ));
    }
    if IMAGE_SIDE_MAX < width.max(height) {
        return Err(format!("the image has {width} x {height} pixels: a side has at most {IMAGE_SIDE_MAX}"));
    }
    if DECODED_BYTES_MAX < bytes {
        return Err(format!(
            "the image has {bytes} bytes when it is decoded, of at most {DECODED_BYTES_MAX}: send 8 bits a channel"
        ));
    }
    Ok(())
}

fn pixels(kind: &str, mut decoder: impl ImageDecoder, gray: bool) -> Result<Picture, String> {
    let orientation = decoder.orientation().map_err(|error| broken(kind, &error))?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| broken(kind, &error))?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    let color = image.color();
    let (channels, bytes) = match (color.has_color(), color.has_alpha()) {
        (false, false) => (1, image.into_luma8().into_raw()),
        (false, true) => (1, over_black::<2>(image.into_luma_alpha8().into_raw())),
        (true, false) => (3, image.into_rgb8().into_raw()),
        (true, true) => (3, over_black::<4>(image.into_rgba8().into_raw())),
    };
    if channels == 3 && gray {
        let bytes = bytes.as_chunks::<3>().0.iter().map(|colour| brightness(*colour)).collect();
        return Ok(Picture { width, height, channels: 1, bytes });
    }
    Ok(Picture { width, height, channels, bytes })
}

/// Pixels of `N` channels, the last of which is how much can be seen of the others.
fn over_black<const N: usize>(mut bytes: Vec<u8>) -> Vec<u8> {
    let pixels = bytes.len() / N;
    for at in 0..pixels {
        let alpha = u32::from(bytes[at * N + N - 1]);
        for channel in 0..N - 1 {
            let value = u32::from(bytes[at * N + channel]) * alpha;
            bytes[at * (N - 1) + channel] = ((value + 127) / 255) as u8;
        }
    }
    bytes.truncate(pixels * (N - 1));
    bytes
}

/// Width and height out of the first chunk.
fn png_size(rest: &[u8]) -> Option<(u32, u32)> {
    let number = |at: usize| rest.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    (rest.get(4..8)? == b"IHDR").then_some(())?;
    Some((number(8)?, number(12)?))
}

/// How many bytes of pixels a JPEG file has; `None` when the mark of the end does not come after them. In pixels, the
/// byte 0xff is never followed by it; before, a small preview may have an end of its own.
///
/// # Errors
/// It has more segments before its pixels than any file has.
fn jpeg_pixels(file: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 2;
    for _ in 0..PARTS_MAX {
        while file.get(at..at + 2) == Some(b"\xff\xff") {
            at += 1; // Filling.
        }
        match file.get(at..at + 4) {
            Some([0xff, 0xda, ..]) => {
                return Ok(file[at..]
                    .windows(2)
                    .position(|pair| pair == [0xff, 0xd9])
                    .map(|_| file.len() - at));
            }
            Some([0xff, _, high, low]) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            // The decoder has its own words for this.
            _ => return Ok(Some(file.len())),
        }
    }
    Err(too_many_parts("JPEG", "segments"))
}

/// # Errors
/// A PNG file has more chunks than any file has.
fn count_chunks(mut rest: &[u8]) -> Result<(), String> {
    for _ in 0..PARTS_MAX {
        let Some((length, _)) = rest.split_first_chunk() else { return Ok(()) };
        // Length, name, and check.
        let whole =
            usize::try_from(u32::from_be_bytes(*length)).ok().and_then(|length| length.checked_add(12));
        match whole.and_then(|whole| rest.get(whole..)) {
            Some(after) => rest = after,
            // The decoder has its own words for what ends early.
            None => return Ok(()),
        }
    }
    Err(too_many_parts("PNG", "chunks"))
}

fn too_many_parts(kind: &str, parts: &str) -> String {
    format!("the {kind} file has more than {PARTS_MAX} {parts}: save it anew")
}

/// The first bytes as a person knows them.
fn beginning(file: &[u8]) -> String {
    let known: [(&[u8], &str); 8] = [
        (b"GIF8", "GIF"),
        (b"BM", "BMP"),
        (b"RIFF", "WebP or another RIFF file"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"%PDF", "PDF"),
        (b"\x1f\x8b", "gzip"),
        (b"PK\x03\x04", "ZIP"),
    ];
    if file.is_empty() {
        return "nothing: it is empty".to_owned();
    }
    let head = &file[..file.len().min(12)];
    let shown = match std::str::from_utf8(head) {
        Ok(text) if !text.contains(char::is_control) => format!("{text:?}"),
        _ => head.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    };
    let name = known.iter().find(|(magic, _)| file.starts_with(magic)).map(|(_, name)| *name);
    let name = name.or_else(|| (file.get(4..8) == Some(b"ftyp")).then_some("HEIC, AVIF or a film"));
    name.map_or(shown.clone(), |name| format!("{shown} ({name})"))
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, ImageEncoder as _, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};

    use super::*;

    fn png(width: u32, height: u32, color: ExtendedColorType, bytes: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        PngEncoder::new(&mut file).write_image(bytes, width, height, color).unwrap();
        file
    }

    fn jpeg(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
        let mut file = Vec::new();
        let bytes = colour.repeat((width * height) as usize);
        JpegEncoder::new_with_quality(&mut file, 95)
            .write_image(&bytes, width, height, ExtendedColorType::Rgb8)
            .unwrap();
        file
    }

    /// The file with an orientation that a camera wrote: 6 is turned right.
    fn turned(file: &[u8], orientation: u8) -> Vec<u8> {
        let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&file[..2], &[0xff, 0xe1], &length[..], &exif, &file[2..]].concat()
    }

    #[test]
    fn every_depth_and_colour_becomes_eight_bits() {
        let rgb = png(1, 1, ExtendedColorType::Rgb8, &[1, 2, 3]);
        assert_eq!(decode(&rgb, false).unwrap().bytes, [1, 2, 3]);
        assert_eq!(decode(&rgb, true).unwrap().bytes, [2]);
        let gray = png(2, 1, ExtendedColorType::L8, &[7, 8]);
        let picture = decode(&gray, false).unwrap();
        assert_eq!((picture.channels, picture.bytes), (1, vec![7, 8]));
        let clear = png(2, 1, ExtendedColorType::Rgba8, &[200, 100, 50, 0, 200, 100, 50, 255]);
        assert_eq!(decode(&clear, false).unwrap().bytes, [0, 0, 0, 200, 100, 50]);
        let half = png(1, 1, ExtendedColorType::La8, &[200, 128]);
        assert_eq!(decode(&half, false).unwrap().bytes, [100]);
        let deep: Vec<u8> = [0x8080_u16, 0xffff, 0].iter().flat_map(|value| value.to_ne_bytes()).collect();
        let deep = png(1, 1, ExtendedColorType::Rgb16, &deep);
        assert_eq!(decode(&deep, false).unwrap().bytes, [128, 255, 0]);
    }

    #[test]
    fn an_image_is_turned_as_its_camera_was() {
        let lying = jpeg(16, 8, [200, 30, 30]);
        let size = |file: &[u8]| decode(file, false).map(|picture| (picture.width, picture.height)).unwrap();
        assert_eq!(size(&lying), (16, 8));
        assert_eq!(size(&turned(&lying, 6)), (8, 16));
        assert_eq!(size(&turned(&lying, 3)), (16, 8));
        assert_eq!(size(&turned(&lying, 99)), (16, 8), "nonsense turns nothing");
    }

    #[test]
    fn what_is_no_image_is_refused_in_words() {
        let told = |file: &[u8]| decode(file, false).unwrap_err();
        assert_eq!(told(b""), "not a JPEG or PNG: it begins with nothing: it is empty");
        assert_eq!(told(b"hello"), "not a JPEG or PNG: it begins with \"hello\"");
        assert_eq!(told(b"GIF89a\x01\0"), "not a JPEG or PNG: it begins with 47 49 46 38 39 61 01 00 (GIF)");
        assert!(told(b"\xff\xd8\xff").starts_with("the JPEG file is broken"));
        assert!(told(b"\x89PNG\r\n\x1a\n").starts_with("the PNG file is broken"));
    }

    #[test]
    fn a_file_that_ends_early_is_refused() {
        let (jpeg, png) = (jpeg(64, 64, [9, 200, 9]), png(64, 64, ExtendedColorType::L8, &[5; 64 * 64]));
        assert!(decode(&jpeg, false).is_ok() && decode(&png, false).is_ok());
        for file in [&jpeg, &png] {
            for length in (0..file.len() - 20).step_by(7).chain([file.len() / 2, file.len() - 20]) {
                assert!(decode(&file[..length], false).is_err(), "{length} of {}", file.len());
            }
        }
        assert!(decode(&jpeg[..jpeg.len() - 2], false).unwrap_err().contains("ends early"));
        let trailed = [&jpeg[..], b"\0\0camera notes"].concat();
        assert!(decode(&trailed, false).is_ok());
    }

    #[test]
    fn sizes_are_looked_at_before_memory_is_taken() {
        let mut png = png(1, 1, ExtendedColorType::L8, &[5]);
        let told = |png: &mut Vec<u8>, width: u32, height: u32| {
            png[16..20].copy_from_slice(&width.to_be_bytes());
            png[20..24].copy_from_slice(&height.to_be_bytes());
            decode(png, false).unwrap_err()
        };
        assert!(told(&mut png, u32::MAX, u32::MAX).contains("at most 50000000 are decoded"));
        assert!(told(&mut png, 40_000, 1).contains("a side has at most 32768"));
        assert!(told(&mut png, 0, 1).contains("nothing can be seen"));

        let mut jpeg = jpeg(8, 8, [0; 3]);
        let head = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpeg[head + 5..head + 9].fill(0xff);
        assert!(decode(&jpeg, false).unwrap_err().contains("65535 x 65535 pixels"));
    }

    #[test]
    fn parts_are_counted_before_anybody_looks_into_them() {
        let (jpeg, png) = (jpeg(8, 8, [9, 200, 9]), png(8, 8, ExtendedColorType::L8, &[5; 64]));
        let stuffed = |file: &[u8], at: usize, part: &[u8], count: usize| {
            decode(&[&file[..at], &part.repeat(count), &file[at..]].concat(), false).map(|_| ())
        };
        let (comment, text) = (b"\xff\xfe\0\x02", b"\0\0\0\x03tEXta\0b\x0b\x20\x95\x57");
        assert_eq!(stuffed(&jpeg, 2, comment, 1_000), Ok(()));
        assert!(stuffed(&jpeg, 2, comment, PARTS_MAX).unwrap_err().contains("JPEG file has more than 32768"));
        assert_eq!(stuffed(&png, 33, text, 1_000), Ok(()));
        assert!(stuffed(&png, 33, text, PARTS_MAX).unwrap_err().contains("PNG file has more than 32768"));
    }

    #[test]
    fn a_few_bytes_are_no_large_jpeg() {
        let mut jpeg = jpeg(64, 64, [9, 200, 9]);
        assert!(decode(&jpeg, false).is_ok());
        let head = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpeg[head + 5..head + 9].copy_from_slice(&[0x1b, 0x80, 0x1b, 0x80]);
        assert!(decode(&jpeg, false).unwrap_err().contains("ends early"));
    }

    #[test]
    fn no_bytes_after_a_right_beginning_panic() {
        let (jpeg, png) = (jpeg(8, 8, [9, 200, 9]), png(8, 8, ExtendedColorType::Rgb8, &[5; 192]));
        for file in [jpeg, png] {
            for at in 2..file.len() {
                for value in [0, 0x7f, 0xff] {
                    let mut file = file.clone();
                    file[at] = value;
                    let _either = decode(&file, false);
                }
            }
        }
    }
}
