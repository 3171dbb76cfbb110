//! Geohash (Gustavo Niemeyer, 2008): a place as a short text; places near each other share a beginning.
//!
//! Without the standard library, so that the component imports nothing: what sees
//! neither clock nor chance gives the same answer for ever.
#![no_std]

extern crate alloc;

use alloc::string::String;

wit_bindgen::generate!({ world: "geohash", path: "wit", std_feature });

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";

struct Geohash;

export!(Geohash);

impl Guest for Geohash {
    fn geohash(latitude: f64, longitude: f64, length: i32) -> String {
        let (mut latitudes, mut longitudes) = ((-90.0, 90.0), (-180.0, 180.0));
        let mut text = String::new();
        let mut by_longitude = true;
        for _ in 0..length.clamp(1, 12) {
            let mut index = 0;
            for _ in 0..5 {
                let (value, range) = if by_longitude {
                    (longitude, &mut longitudes)
                } else {
                    (latitude, &mut latitudes)
                };
                let middle = (range.0 + range.1) / 2.0;
                index <<= 1;
                if value >= middle {
                    index |= 1;
                    range.0 = middle;
                } else {
                    range.1 = middle;
                }
                by_longitude = !by_longitude;
            }
            text.push(char::from(ALPHABET[index]));
        }
        text
    }
}
