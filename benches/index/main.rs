//! The n-gram index: build, size, and the steps of beam search, alone or beside the field's index.
//!
//! `cargo bench --bench index -- [--corpus FOLDER]... [--cache FILE] [--beams 1,10,100,300]
//! [--rounds R] [--min-node-count N] [--filters] [--outputs] [--segments N] [--folder FOLDER] [--peer FOLDER]`. `--folder`
//! keeps what is built, `--instructions INDEX --beams LENGTH` only takes `--rounds` steps of 100 n-grams
//! of that length, to be counted by valgrind; `--cache` the tokens. Without `--corpus` it is corpus A: the
//! collections humanqa and medquad-liveqa together. With `--peer` (see `index_sdsl.sh`) the other
//! index answers the same n-grams in the same rounds; counts, distinct continuations and checksums
//! must agree, and ratios are printed. Times are CPU time of the thread: means over the blocks of a
//! beam width, medians over rounds. Cold means that 128 MB are touched before, as a model's forward
//! pass would, for both indexes; warm is the same call again. What the clock itself takes is in every time
//! (`nothing` in the tables), and much of a cold step of one n-gram.

mod clock;
mod corpus;
mod memory;
mod peer;
#[path = "../../tests/common/shared.rs"]
mod shared;
mod times;

use std::fs;
use std::path::{Path, PathBuf};

use clock::{Clock, cpu_micros};
use corpus::{Beam, MAX_LEN, Passages};
use genret::index::{
    Continuations, Csr, IndexOptions, LiveWriter, NgramIndex, Occurrence, PassageSet,
    SubstringIndex,
};
use genret::rng::stream;
use genret::types::{PassageIdx, TokenId};
use memory::{Eviction, peak_bytes};
use peer::Peer;
use rand::RngExt;
use times::{Heat, Times};

/// N-grams with more occurrences than this are not located.
const MOST_LOCATED: usize = 1000;

struct Options {
    corpora: Vec<PathBuf>,
    cache: Option<PathBuf>,
    beams: Vec<usize>,
    rounds: usize,
    index: IndexOptions,
    filters: bool,
    outputs: bool,
    segments: Option<usize>,
    instructions: Option<PathBuf>,
    folder: Option<PathBuf>,
    peer: Option<PathBuf>,
}

fn main() {
    let Some(options) = options() else { return };
    if let Some(path) = &options.instructions {
        return instructions(path, options.rounds, &options.beams);
    }
    let passages = corpus::passages(&options.corpora, options.cache.as_deref());
    let num_tokens: usize = passages.iter().map(Vec::len).sum();
    let temporary = std::env::temp_dir().join(format!("genret-bench-{}", std::process::id()));
    let folder = options.folder.as_ref().unwrap_or(&temporary);
    fs::create_dir_all(folder).expect("the folder can be made");

    let path = folder.join("ours.idx");
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("one thread starts");
    let begun = cpu_micros(Clock::Process);
    let peak = peak_bytes(|| pool.install(|| corpus::build(&passages, options.index, &path)));
    let build_secs = (cpu_micros(Clock::Process) - begun) / 1e6;
    let bits =
        fs::metadata(&path).expect("the index is there").len() as f64 * 8.0 / num_tokens as f64;
    println!("{num_tokens} tokens, {} passages", passages.len());
    println!(
        "build {build_secs:.2} s CPU on one thread, {:.2} bytes of memory and {bits:.2} bits of file per token",
        peak as f64 / num_tokens as f64
    );
    let peer = options
        .peer
        .as_ref()
        .map(|programs| Peer::build(programs, folder, &passages));
    if let Some(peer) = &peer {
        println!(
            "peer  {:.2} s CPU ({:.1}x), {:.2} bits per token ({:.2}x)",
            peer.build_secs,
            peer.build_secs / build_secs,
            peer.bits,
            bits / peer.bits
        );
    }
    let mut eviction = Eviction::new();
    let mut open = vec![];
    for _ in 0..5 {
        eviction.run();
        let begun = cpu_micros(Clock::Thread);
        drop(NgramIndex::open(&path).expect("the index was just written"));
        open.push(cpu_micros(Clock::Thread) - begun);
    }
    open.sort_by(f64::total_cmp);
    println!("open {:.0} microseconds", open[2]);

    let index = NgramIndex::open(&path).expect("the index was just written");
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..options.rounds {
        for &width in &options.beams {
            let beams = corpus::sample(&passages, width * blocks(width));
            measure(&index, &beams, width, &mut eviction, &mut ours);
            if let Some(peer) = &peer {
                peer.measure(&index, &beams, width, &mut theirs);
            }
        }
        ours.next_round();
        theirs.next_round();
    }
    for &width in &options.beams {
        report(&ours, peer.as_ref().map(|_| &theirs), width);
    }
    if let Some(segments) = options.segments {
        live(&passages, segments, &options, &mut eviction);
    }
    if options.outputs {
        outputs(&index, &passages, &options, &mut eviction);
    }
    if options.filters {
        filters(&index, &passages, &options, &mut eviction);
    }
    if options.folder.is_none() {
        fs::remove_dir_all(folder).expect("the temporary folder can be removed");
    }
}

/// Blocks of a beam width in one round.
fn blocks(width: usize) -> usize {
    (300 / width).clamp(1, 20)
}

fn options() -> Option<Options> {
    let mut options = Options {
        corpora: vec![],
        cache: None,
        beams: vec![1, 10, 100, 300],
        rounds: 3,
        index: IndexOptions::default(),
        filters: false,
        outputs: false,
        segments: None,
        instructions: None,
        folder: None,
        peer: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| panic!("{flag} needs a value"))
        };
        let number = |text: &str| {
            text.parse()
                .unwrap_or_else(|_| panic!("{text} is no number"))
        };
        match flag.as_str() {
            "--corpus" => options.corpora.push(value().into()),
            "--cache" => options.cache = Some(value().into()),
            "--beams" => options.beams = value().split(',').map(number).collect(),
            "--rounds" => options.rounds = number(&value()),
            "--min-node-count" => options.index.min_node_count = number(&value()),
            "--filters" => options.filters = true,
            "--segments" => options.segments = Some(number(&value())),
            "--instructions" => options.instructions = Some(value().into()),
            "--outputs" => options.outputs = true,
            "--folder" => options.folder = Some(value().into()),
            "--peer" => options.peer = Some(value().into()),
            "--bench" => {} // Added by cargo.
            other => panic!("unknown flag {other}"),
        }
    }
    if options.instructions.is_none()
        && options.corpora.is_empty()
        && options.cache.as_ref().is_none_or(|cache| !cache.exists())
    {
        for name in ["data/humanqa", "data/medquad-liveqa"] {
            options.corpora.push(shared::shared(name)?);
        }
    }
    Some(options)
}

/// States as a search holds them: each made from its parent's continuations.
fn arrive<I: SubstringIndex>(index: &I, ngram: &[TokenId]) -> Option<I::State> {
    let mut state = index.root();
    let mut out = Continuations::new();
    for token in ngram {
        index.continuations(&[state], &mut out);
        let row = out.row(0);
        state = row.state(row.tokens.binary_search(token).ok()?);
    }
    Some(state)
}

fn measure<I: SubstringIndex>(
    index: &I,
    beams: &[Beam],
    width: usize,
    eviction: &mut Eviction,
    times: &mut Times,
) {
    let mut out = Continuations::new();
    let mut copied = Csr::default();
    let mut found: Vec<Occurrence> = vec![];
    let mut sink = 0;
    for (len, beam) in beams.iter().enumerate() {
        for beam in beam.chunks(width) {
            // Under a filter some n-grams do not occur.
            let beam: Vec<_> = beam
                .iter()
                .filter_map(|(ngram, next)| Some((ngram, next, arrive(index, ngram)?)))
                .collect();
            let states: Vec<I::State> = beam.iter().map(|&(_, _, state)| state).collect();
            let mut timed = |what: &'static str, run: &mut dyn FnMut()| {
                eviction.run();
                for heat in [Heat::Cold, Heat::Warm] {
                    let begun = cpu_micros(Clock::Thread);
                    run();
                    times.add(width, what, len, heat, cpu_micros(Clock::Thread) - begun);
                }
            };
            timed("nothing", &mut || {});
            timed("enumerate", &mut || index.continuations(&states, &mut out));
            timed("copy", &mut || {
                index.continuations(&states, &mut out);
                out.copy_to(&mut copied);
            });
            let mut moved: Vec<I::State> = Vec::with_capacity(beam.len());
            timed("step", &mut || {
                moved.clear();
                index.continuations(&states, &mut out);
                for (row, (_, next, _)) in out.iter().zip(&beam) {
                    if let Some(nth) = row.find(**next) {
                        moved.push(row.state(nth));
                    }
                }
            });
            timed("extend", &mut || {
                for (_, next, state) in &beam {
                    sink += usize::from(index.advance(*state, **next).is_some());
                }
            });
            timed("research", &mut || {
                for (ngram, ..) in &beam {
                    sink += index.ngram_count(ngram);
                }
            });
            let rare = |&state: &I::State| index.count(state) <= MOST_LOCATED;
            let rare: Vec<I::State> = states.iter().copied().filter(rare).collect();
            let located: usize = rare.iter().map(|&state| index.count(state)).sum();
            timed("locate", &mut || {
                for &state in &rare {
                    index.occurrences(state, usize::MAX, &mut found);
                    sink += found.len();
                }
            });
            // Kept beside the times, so that the report can divide.
            times.add(width, "located", len, Heat::Cold, located as f64);
        }
    }
    assert!(sink > 0, "the work is not left out");
}

fn report(ours: &Times, theirs: Option<&Times>, width: usize) {
    const KINDS: [&str; 5] = ["enumerate", "copy", "step", "extend", "research"];
    for heat in [Heat::Cold, Heat::Warm] {
        println!("\nmicroseconds per step of {width} n-grams, {heat:?}");
        println!("length  enumerate  with copy       step     extend  from scratch");
        for len in 0..=MAX_LEN {
            let [a, b, c, d, e] = KINDS.map(|what| ours.get(width, what, len, heat));
            println!("{len:6} {a:10.1} {b:10.1} {c:10.1} {d:10.1} {e:13.1}");
        }
        let [a, b, c, d, e] = KINDS.map(|what| ours.sum(width, what, heat));
        println!("   1-9 {a:10.1} {b:10.1} {c:10.1} {d:10.1} {e:13.1}");
        println!(
            "nothing {:9.1} of each\nlocate {:10.1} ns per occurrence",
            ours.sum(width, "nothing", heat),
            locate(ours, width, heat)
        );
    }
    let Some(theirs) = theirs else { return };
    println!("\nbeam {width}: peer in microseconds, sum of lengths 1-9, and ratio to ours");
    println!("                           cold      ratio       warm      ratio");
    let line = |name: &str, peer: &dyn Fn(Heat) -> f64, our: &dyn Fn(Heat) -> f64| {
        let [cold, warm] =
            [Heat::Cold, Heat::Warm].map(|heat| (peer(heat), peer(heat) / our(heat)));
        println!(
            "{name:20} {:10.1} {:9.1}x {:10.1} {:9.1}x",
            cold.0, cold.1, warm.0, warm.1
        );
    };
    let sum = |what, heat| theirs.sum(width, what, heat);
    let best = |heat| sum("enumerate_best_us", heat) + sum("extend_us", heat);
    let called = |heat| sum("enumerate_alloc_us", heat) + 2.0 * sum("research_us", heat);
    let our = |what| move |heat| ours.sum(width, what, heat);
    line("step, at its best", &best, &our("step"));
    line("step, as called", &called, &our("step"));
    line(
        "enumerate",
        &|heat| sum("enumerate_best_us", heat),
        &our("enumerate"),
    );
    line(
        "enumerate and copy",
        &|heat| sum("enumerate_best_us", heat),
        &our("copy"),
    );
    line("extend", &|heat| sum("extend_us", heat), &our("extend"));
    line(
        "from scratch",
        &|heat| sum("research_us", heat),
        &our("research"),
    );
    line(
        "locate (ns each)",
        &|heat| theirs.get(width, "locate_ns", 0, heat),
        &|heat| locate(ours, width, heat),
    );
}

/// Nanoseconds per occurrence of n-grams of 1 to 9 tokens.
fn locate(times: &Times, width: usize, heat: Heat) -> f64 {
    times.sum(width, "locate", heat) * 1e3 / times.sum(width, "located", Heat::Cold)
}

/// Restrictions to random passages: making them, and their steps of 100 n-grams.
fn filters(index: &NgramIndex, passages: &Passages, options: &Options, eviction: &mut Eviction) {
    const WIDTH: usize = 100;
    println!(
        "\nfilters: passages, milliseconds of CPU to make, microseconds of steps 1-9 of {WIDTH} n-grams"
    );
    println!("                  make  cold step  warm step");
    let beams = corpus::sample(passages, WIDTH * blocks(WIDTH));
    for share in [0.01, 0.1, 0.5, 0.9, 1.0] {
        let mut rng = stream(2, "bench filter", &[]);
        let all = (0..passages.len() as u32).map(PassageIdx);
        let subset: PassageSet = all.filter(|_| rng.random::<f64>() < share).collect();
        let mut times = Times::default();
        let mut make = vec![];
        for _ in 0..options.rounds {
            let begun = cpu_micros(Clock::Process);
            let filtered = index.restricted_to(&subset);
            make.push((cpu_micros(Clock::Process) - begun) / 1e3);
            measure(&filtered, &beams, WIDTH, eviction, &mut times);
            times.next_round();
        }
        make.sort_by(f64::total_cmp);
        println!(
            "{:9.0} % {:11.1} {:10.1} {:10.1}",
            share * 100.0,
            make[make.len() / 2],
            times.sum(WIDTH, "step", Heat::Cold),
            times.sum(WIDTH, "step", Heat::Warm)
        );
    }
}

/// Steps of 100 n-grams of the first length of `lengths`, without anything else that depends on `steps`.
fn instructions(path: &Path, steps: usize, lengths: &[usize]) {
    let index = NgramIndex::open(path).expect("an index");
    let (mut rng, mut passage) = (stream(4, "bench instructions", &[]), vec![]);
    let mut beam = vec![];
    while beam.len() < 100 {
        let number = rng.random_range(0..index.num_passages() as u32);
        index.passage_tokens(PassageIdx(number), &mut passage);
        let start = rng.random_range(0..passage.len());
        if let Some(ngram) = passage.get(start..start + lengths[0] + 1) {
            let (next, ngram) = ngram.split_last().expect("one token more");
            beam.push((*next, arrive(&index, ngram).expect("the n-gram occurs")));
        }
    }
    let states: Vec<_> = beam.iter().map(|&(_, state)| state).collect();
    let (mut out, mut moved) = (Continuations::new(), Vec::with_capacity(100));
    for _ in 0..steps {
        moved.clear();
        index.continuations(&states, &mut out);
        for (row, (next, _)) in out.iter().zip(&beam) {
            let nth = row.find(*next).expect("the token follows");
            moved.push(row.state(nth));
        }
    }
    println!("{steps} steps of {} n-grams", beam.len());
}

/// A live index made by so many additions of equal size beside one made at once: steps of 100 n-grams.
fn live(passages: &Passages, additions: usize, options: &Options, eviction: &mut Eviction) {
    const WIDTH: usize = 100;
    println!("\nlive: additions, segments, microseconds of steps 1-9 of {WIDTH} n-grams");
    println!("                     cold step  warm step");
    let beams = corpus::sample(passages, WIDTH * blocks(WIDTH));
    let folder = std::env::temp_dir().join(format!("genret-bench-live-{}", std::process::id()));
    for additions in [1, additions] {
        let mut writer = LiveWriter::create(&folder, corpus::VOCAB, 0, "", options.index)
            .expect("the folder can be made");
        for (number, part) in passages
            .chunks(passages.len().div_ceil(additions))
            .enumerate()
        {
            let mut builder = writer.builder().expect("the index is sound");
            for (nth, passage) in part.iter().enumerate() {
                let id = format!("{number}-{nth}");
                builder
                    .push(&id, &[], passage)
                    .expect("no passage is empty");
            }
            writer.add(builder).expect("the passages are new");
        }
        let index = writer.index().expect("the index is sound");
        let mut times = Times::default();
        for _ in 0..options.rounds {
            measure(&index, &beams, WIDTH, eviction, &mut times);
            times.next_round();
        }
        println!(
            "{additions:9} {:9} {:10.1} {:10.1}",
            index.stats().segments.len(),
            times.sum(WIDTH, "step", Heat::Cold),
            times.sum(WIDTH, "step", Heat::Warm)
        );
        fs::remove_dir_all(&folder).expect("the folder can be removed");
    }
}

/// What a search makes of the continuations of 100 n-grams: mask rows, or the best 200 by logit, chosen
/// from a list of all or as they are read.
fn outputs(index: &NgramIndex, passages: &Passages, options: &Options, eviction: &mut Eviction) {
    const WIDTH: usize = 100;
    let mut rng = stream(3, "bench logits", &[]);
    let logits: Vec<Vec<f32>> = (0..WIDTH)
        .map(|_| (0..corpus::VOCAB).map(|_| rng.random::<f32>()).collect())
        .collect();
    let beams = corpus::sample(passages, WIDTH);
    let mut times = Times::default();
    let mut out = Continuations::new();
    let (mut masks, mut best, mut chosen) = (vec![], vec![], vec![]);
    for _ in 0..options.rounds {
        for (len, beam) in beams.iter().enumerate().take(4) {
            let states: Vec<_> = beam
                .iter()
                .map(|(ngram, _)| arrive(index, ngram).expect("the n-gram was sampled"))
                .collect();
            let mut timed = |what: &'static str, run: &mut dyn FnMut()| {
                eviction.run();
                for heat in [Heat::Cold, Heat::Warm] {
                    let begun = cpu_micros(Clock::Thread);
                    run();
                    times.add(WIDTH, what, len, heat, cpu_micros(Clock::Thread) - begun);
                }
            };
            timed("masks", &mut || {
                index.continuations(&states, &mut out);
                out.mask_rows(corpus::VOCAB, &mut masks);
            });
            let order = |a: &(f32, usize, TokenId, usize, _),
                         b: &(f32, usize, TokenId, usize, _)| {
                b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2))
            };
            timed("all", &mut || {
                index.continuations(&states, &mut out);
                chosen.clear();
                for (parent, (row, logits)) in out.iter().zip(&logits).enumerate() {
                    for (nth, &token) in row.tokens.iter().enumerate() {
                        let logit = logits[token.index()];
                        chosen.push((logit, parent, token, row.count(nth), row.state(nth)));
                    }
                    if chosen.len() > 2 * WIDTH {
                        chosen.select_nth_unstable_by(2 * WIDTH - 1, order);
                        chosen.truncate(2 * WIDTH);
                    }
                }
                chosen.sort_unstable_by(order);
            });
            let all: Vec<_> = chosen.iter().map(|c| (c.1, c.2, c.3)).collect();
            timed("best", &mut || {
                index.continuations(&states, &mut out);
                chosen.clear();
                let mut least = f32::NEG_INFINITY;
                for (parent, (row, logits)) in out.iter().zip(&logits).enumerate() {
                    row.best(logits, least, 2 * WIDTH, &mut best);
                    for &nth in &best {
                        let nth = nth as usize;
                        let token = row.tokens[nth];
                        let logit = logits[token.index()];
                        chosen.push((logit, parent, token, row.count(nth), row.state(nth)));
                    }
                    if chosen.len() > 2 * WIDTH {
                        chosen.select_nth_unstable_by(2 * WIDTH - 1, order);
                        chosen.truncate(2 * WIDTH);
                        least = chosen[2 * WIDTH - 1].0;
                    }
                }
                chosen.sort_unstable_by(order);
            });
            assert!(
                all.iter()
                    .copied()
                    .eq(chosen.iter().map(|c| (c.1, c.2, c.3)))
            );
        }
        times.next_round();
    }
    println!(
        "\noutputs: microseconds per step of {WIDTH} n-grams with their continuations, cold and warm"
    );
    println!("length      masks                 best 200 of all       best 200 as read");
    for len in 0..4 {
        let [a, b, c] = ["masks", "all", "best"]
            .map(|what| [Heat::Cold, Heat::Warm].map(|heat| times.get(WIDTH, what, len, heat)));
        println!(
            "{len:6} {:10.1} {:10.1} {:10.1} {:10.1} {:10.1} {:10.1}",
            a[0], a[1], b[0], b[1], c[0], c[1]
        );
    }
}
