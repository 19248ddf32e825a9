//! Damaged files: no byte can change unnoticed, and nothing that is read of them panics.
//!
//! `GENRET_FUZZ_SECS=600 cargo test --release fuzz_damaged_files -- --ignored --nocapture`

use std::fs;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::super::IndexError;
use super::{builder, exercise, open_bytes, passages, temporary};
use crate::rng::{Stream, stream};
use crate::types::PassageIdx;

/// An index file of random shape.
fn image(rng: &mut Stream) -> Vec<u8> {
    let alphabet = rng.random_range(1..40);
    let wide = rng.random_range(0..4) == 0;
    let vocab = if wide { 70_000 } else { alphabet + 1 };
    let corpus = passages(
        rng.random(),
        rng.random_range(0..700),
        rng.random_range(1..40),
        alphabet,
        vocab - alphabet,
    );
    let path = temporary(&format!("fuzz-{}.idx", rng.random::<u64>()));
    let (max, min_node) = (rng.random_range(1..20), rng.random_range(1..50));
    builder(&corpus, vocab as usize, max, min_node)
        .write(&path)
        .unwrap();
    let image = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    image
}

/// Opening or verifying refuses `image`, with a message that says what to do; asking it, if it opens,
/// does not panic.
fn refused(image: &[u8], seed: u64, ask: bool) -> Result<(), String> {
    let said = match open_bytes(image) {
        Err(error) => error,
        Ok(index) => {
            if ask {
                exercise(&index, seed);
                let odd = (0..40).filter(|p| p % 2 == 1).map(PassageIdx).collect();
                exercise(&index.restricted_to(&odd), seed);
            }
            index.verify().err().ok_or("the damage goes unnoticed")?
        }
    };
    let remedy = said.to_string().contains("`genret index build`");
    match said {
        IndexError::Io { .. } | IndexError::Option { .. } => Err("another error".into()),
        _ if remedy => Ok(()),
        other => Err(format!("no remedy: {other}")),
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let mut rng = stream(1, "fuzz all", &[]);
    let image = image(&mut rng);
    for at in 0..image.len() {
        let mut image = image.clone();
        image[at] ^= 1 << (at % 8);
        refused(&image, 0, at % 64 == 0).unwrap_or_else(|e| panic!("byte {at}: {e}"));
    }
    for len in 0..image.len() {
        refused(&image[..len], 0, false).unwrap_or_else(|e| panic!("{len} bytes: {e}"));
    }
    for more in [1, 64, 1000] {
        let mut image = image.clone();
        image.resize(image.len() + more, 0);
        refused(&image, 0, false).unwrap_or_else(|e| panic!("{more} more: {e}"));
    }
}

#[test]
#[ignore = "runs for GENRET_FUZZ_SECS; GENRET_FUZZ_SECS=600 cargo test --release fuzz_damaged_files -- --ignored --nocapture"]
fn fuzz_damaged_files() {
    let secs: u64 = std::env::var("GENRET_FUZZ_SECS").map_or(10, |secs| secs.parse().unwrap());
    let begun = Instant::now();
    let (mut seed, mut damaged) = (0, 0u64);
    while begun.elapsed() < Duration::from_secs(secs) {
        let mut rng = stream(seed, "fuzz", &[]);
        seed += 1;
        let sound = image(&mut rng);
        open_bytes(&sound).unwrap().verify().unwrap();
        for _ in 0..200 {
            let mut image = sound.clone();
            if rng.random_range(0..4) == 0 {
                image.truncate(rng.random_range(0..image.len()));
            }
            for _ in 0..rng.random_range(0..4) {
                if !image.is_empty() {
                    let at = rng.random_range(0..image.len());
                    image[at] = rng.random();
                }
            }
            if image == sound {
                continue;
            }
            damaged += 1;
            refused(&image, seed, true).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        }
    }
    println!("{damaged} damaged files of {seed} indexes in {secs} s: all refused, no panic");
}
