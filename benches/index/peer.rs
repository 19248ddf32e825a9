//! The field's index, run as a program.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use genret::index::{Continuations, NgramIndex, SubstringIndex};

use crate::corpus::{Beam, Passages};
use crate::times::{Heat, Times};

/// The built peer.
pub struct Peer {
    /// Warm and cold program.
    programs: [(Heat, PathBuf); 2],
    index: PathBuf,
    prefixes: PathBuf,
    pub build_secs: f64,
    pub bits: f64,
}

impl Peer {
    /// Builds the peer's index, unless it lies in `folder`, with the programs `peer` and `peer-cold` of
    /// `programs`.
    pub fn build(programs: &Path, folder: &Path, passages: &Passages) -> Self {
        let programs = [
            (Heat::Warm, programs.join("peer")),
            (Heat::Cold, programs.join("peer-cold")),
        ];
        let (index, said) = (folder.join("peer.idx"), folder.join("peer.said"));
        if !said.exists() {
            let answer = Self::make(&programs[0].1, folder, &index, passages);
            fs::write(&said, answer).expect("the peer's figures can be kept");
        }
        let said = fs::read_to_string(&said).expect("the peer's figures can be read");
        let words: Vec<&str> = said.split_whitespace().collect();
        Self {
            build_secs: value(&words, "build_cpu_s"),
            bits: value(&words, "bits_per_token"),
            prefixes: folder.join("peer.prefixes"),
            programs,
            index,
        }
    }

    fn make(program: &Path, folder: &Path, index: &Path, passages: &Passages) -> String {
        // Passages reversed, tokens shifted by one, 0 between passages.
        let mut symbols: Vec<u8> = vec![];
        for (i, passage) in passages.iter().enumerate() {
            if i > 0 {
                symbols.extend(0u32.to_le_bytes());
            }
            for token in passage.iter().rev() {
                symbols.extend((token.0 + 1).to_le_bytes());
            }
        }
        let text = folder.join("peer.tokens");
        fs::write(&text, symbols).expect("the peer's text can be written");
        run(Command::new(program).arg("build").arg(&text).arg(index))
    }

    /// Times blocks of `width` n-grams and compares every answer with that of `index`.
    pub fn measure(&self, index: &NgramIndex, beams: &[Beam], width: usize, times: &mut Times) {
        let mut lines = fs::File::create(&self.prefixes).expect("the n-grams can be written");
        // The empty n-gram comes last: the peer locates the first rows of the first n-grams.
        let ordered = || beams[1..].iter().chain(&beams[..1]).flatten();
        for (ngram, _) in ordered() {
            let ids: Vec<String> = ngram
                .iter()
                .map(|token| (token.0 + 1).to_string())
                .collect();
            writeln!(lines, "{}", ids.join(" ")).expect("the n-grams can be written");
        }
        for (heat, program) in &self.programs {
            let mut command = Command::new(program);
            command.arg("query").arg(&self.index).arg(&self.prefixes);
            let said = run(command.arg(width.to_string()));
            let mut ngrams = ordered();
            let mut out = Continuations::new();
            for line in said.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let number = |name: &str| value(&words, name);
                match words[0] {
                    "prefix" => {
                        let (ngram, _) = ngrams.next().expect("one line per n-gram");
                        let state = index.find(ngram).expect("the n-gram was sampled");
                        index.continuations(&[state], &mut out);
                        let row = out.row(0);
                        let checksum = (0..row.tokens.len()).fold(0u64, |sum, nth| {
                            let symbol = u64::from(row.tokens[nth].0) + 2;
                            sum.wrapping_add(symbol.wrapping_mul(1_000_003) ^ row.count(nth) as u64)
                        });
                        // The peer counts separators and the sentinel in the empty n-gram.
                        let counts =
                            ngram.is_empty() || number("count") == index.count(state) as f64;
                        assert!(counts, "count of {ngram:?}: {line}");
                        assert_eq!(number("distinct"), row.tokens.len() as f64, "{ngram:?}");
                        assert_eq!(words[7].parse(), Ok(checksum), "{ngram:?}");
                    }
                    "block" => {
                        let len = number("length") as usize;
                        for what in [
                            "enumerate_alloc_us",
                            "enumerate_best_us",
                            "extend_us",
                            "research_us",
                        ] {
                            times.add(width, what, len, *heat, number(what));
                        }
                    }
                    "locate_ns" => times.add(width, "locate_ns", 0, *heat, number("locate_ns")),
                    _ => {}
                }
            }
            assert!(ngrams.next().is_none(), "one line per n-gram");
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the peer starts");
    assert!(
        output.status.success(),
        "the peer failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the peer writes text")
}

/// The number behind `name`.
fn value(words: &[&str], name: &str) -> f64 {
    let at = words
        .iter()
        .position(|word| *word == name)
        .expect("the peer names its numbers");
    words[at + 1].parse().expect("a number follows its name")
}
