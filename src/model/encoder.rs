//! Texts as vectors: one number per term of the vocabulary (sparse), or as many as the model is wide (dense).
//!
//! ```text
//! sparse  ln(1 + relu(max over t of logits_t / d_model^(1/4)))           (SPLADE, Formal et al. 2021)
//! dense   mean over t of h_t / |h_t|, not normalised again; or the last or the first h_t / |h_t|
//! ```
//! over the text's own tokens t, with h after the final norm. A decoder alone reads both ways: only padding is
//! masked (Zeng, Killingback, Zamani 2025). Gradients flow through all of it; the logits of a batch are never
//! held whole on the CPU (`genret_kernels::sparse_pool`).
//!
//! Shape legend: b texts, t tokens of the longest, n = b * t, d model width, v vocabulary.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use genret_kernels as kernels;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Family, Model, ModelConfig, ModelError, Sequences, checkpoint};
use crate::types::{SparseVector, TokenId};

/// How the states of a text's tokens become one vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The largest logit of every term.
    #[default]
    Sparse,
    /// The mean of the normalised states.
    Mean,
    /// The normalised state of the last token.
    Last,
    /// The normalised state of the first token.
    Cls,
}

/// The part of a T5 whose states are pooled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum T5Part {
    /// The encoder alone.
    #[default]
    Encoder,
    /// The decoder, which reads the same text shifted right while it looks at the encoder's.
    EncoderDecoder,
}

/// What a text is to a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It is searched for.
    Query,
    /// It is found.
    Passage,
}

/// How a model turns texts into vectors.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderOptions {
    /// From states to a vector.
    pub pooling: Pooling,
    /// Every token sees every other. `false` lets a decoder alone read from left to right, as it was trained.
    pub bidirectional: bool,
    /// Part of a T5 that encodes; nothing to a decoder alone.
    pub t5_part: T5Part,
    /// Leave the first token, the one that begins a text, out of the pooling (not of what the others see). A text of
    /// one token keeps it.
    pub skip_bos: bool,
    /// Tokens of a query, at most, with those that begin and end it.
    pub query_tokens: usize,
    /// Tokens of a passage, at most, with those that begin and end it.
    pub passage_tokens: usize,
    /// Terms of a query that are kept, the largest; in search alone, not in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query_top_k: Option<usize>,
    /// Terms of a passage that are kept, the largest; in search alone, not in training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passage_top_k: Option<usize>,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        Self {
            pooling: Pooling::Sparse,
            bidirectional: true,
            t5_part: T5Part::Encoder,
            skip_bos: false,
            query_tokens: 64,
            passage_tokens: 128,
            query_top_k: None,
            passage_top_k: None,
        }
    }
}

impl EncoderOptions {
    /// Checks the options by themselves and against the family of the model.
    ///
    /// # Errors
    /// [`ModelError::Encoder`] with the setting, its value and what to do.
    pub fn validate(&self, family: Family) -> Result<(), ModelError> {
        let bad = |setting, value: &dyn std::fmt::Display, remedy| {
            Err(ModelError::Encoder {
                setting,
                value: value.to_string(),
                remedy,
            })
        };
        for (setting, tokens) in [
            ("query_tokens", self.query_tokens),
            ("passage_tokens", self.passage_tokens),
        ] {
            if tokens == 0 {
                return bad(setting, &tokens, "expected at least 1");
            }
        }
        for (setting, top_k) in [
            ("query_top_k", self.query_top_k),
            ("passage_top_k", self.passage_top_k),
        ] {
            match top_k {
                Some(0) => {
                    return bad(setting, &0, "expected at least 1; leave it out to keep all");
                }
                Some(k) if self.pooling != Pooling::Sparse => {
                    return bad(setting, &k, "dense vectors have no terms; leave it out");
                }
                _ => {}
            }
        }
        match family {
            Family::T5 if !self.bidirectional => bad(
                "bidirectional",
                &false,
                "a T5 encoder reads both ways; leave it out",
            ),
            Family::T5 if self.skip_bos && self.t5_part == T5Part::Encoder => bad(
                "skip_bos",
                &true,
                "texts of a T5 encoder begin with a token of their own; leave it out",
            ),
            Family::Llama if self.t5_part != T5Part::Encoder => bad(
                "t5_part",
                &"encoder_decoder",
                "the model is a decoder alone; leave it out",
            ),
            _ => Ok(()),
        }
    }

    /// The same with `passage_tokens`, if given: what is searched may be read further than in training.
    pub fn with_passage_tokens(&self, passage_tokens: Option<usize>) -> Self {
        Self {
            passage_tokens: passage_tokens.unwrap_or(self.passage_tokens),
            ..self.clone()
        }
    }

    /// Tokens of a text in this role, at most.
    pub fn tokens(&self, role: Role) -> usize {
        match role {
            Role::Query => self.query_tokens,
            Role::Passage => self.passage_tokens,
        }
    }

    /// Terms that are kept of a text in this role, if not all.
    pub fn top_k(&self, role: Role) -> Option<usize> {
        match role {
            Role::Query => self.query_top_k,
            Role::Passage => self.passage_top_k,
        }
    }

    /// Whether a text must close with the end token: its state is what the vector is.
    pub fn closes(&self) -> bool {
        self.pooling == Pooling::Last
    }

    /// Numbers in a vector: terms of the vocabulary, or the model's width.
    pub fn width(&self, model: &ModelConfig) -> usize {
        match self.pooling {
            Pooling::Sparse => model.vocab_size(),
            _ => model.layers_and_width().1,
        }
    }

    /// The pooled tokens of a text of `length`.
    fn pooled(&self, length: usize) -> Range<usize> {
        usize::from(self.skip_bos && length > 1)..length
    }
}

impl Model {
    /// The vectors of a batch of texts, `[b, v]` (sparse) or `[b, d]` (dense); a text without tokens is zero.
    ///
    /// What a text's vector is depends on nothing else in the batch. Sparse values are at least 0.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] beyond the model's positions.
    pub fn encode(
        &self,
        batch: &Sequences,
        options: &EncoderOptions,
    ) -> Result<Tensor<2>, ModelError> {
        let config = self.config();
        if batch.seq == 0 {
            let shape = [batch.lengths.len(), options.width(&config)];
            return Ok(Tensor::zeros(shape, &self.device()));
        }
        let hidden_nd = self.states(batch, options)?;
        if options.pooling != Pooling::Sparse {
            return Ok(pool_dense(hidden_nd, batch, options));
        }
        let texts: Vec<Range<usize>> = (batch.lengths.iter().enumerate())
            .map(|(row, &length)| {
                let tokens = options.pooled(length);
                row * batch.seq + tokens.start..row * batch.seq + tokens.end
            })
            .collect();
        let (hidden_nd, weight_vd) = match self {
            Self::Llama(model) => (hidden_nd, model.head_weight()),
            Self::T5(model) => model.head(hidden_nd),
        };
        let scale = (config.layers_and_width().1 as f64).powf(-0.25);
        Ok(kernels::sparse_pool(
            hidden_nd,
            weight_vd,
            &texts,
            scale as f32,
        ))
    }

    /// The states `[n, d]` that are pooled, after the final norm.
    fn states(&self, batch: &Sequences, options: &EncoderOptions) -> Result<Tensor<2>, ModelError> {
        match self {
            Self::Llama(model) => model.hidden(batch, !options.bidirectional),
            Self::T5(model) => Ok(match options.t5_part {
                T5Part::Encoder => model.encode(batch),
                T5Part::EncoderDecoder => model.decode_shifted(batch),
            }),
        }
    }

    /// Fails unless a later token changes the state of an earlier one, where `options` want that: the test for a
    /// model that reads from left to right unnoticed. Whoever opens a model to encode with runs it; a pass over
    /// six tokens.
    ///
    /// # Errors
    /// [`ModelError::OneWay`]; those of [`Model::encode`].
    pub fn check_both_ways(&self, options: &EncoderOptions) -> Result<(), ModelError> {
        if !options.bidirectional || self.looks_ahead(options)? {
            return Ok(());
        }
        Err(ModelError::OneWay)
    }

    fn looks_ahead(&self, options: &EncoderOptions) -> Result<bool, ModelError> {
        let config = self.config();
        let (vocab, width) = (config.vocab_size(), config.layers_and_width().1);
        let token = |id: usize| TokenId(id.min(vocab - 1) as u32);
        // Several pairs, should two tokens have the same embedding.
        for (one, other) in [(vocab / 3, vocab / 2), (1, vocab - 1), (0, vocab / 5)] {
            let texts = [one, other].map(|last| [vocab / 4, vocab / 7, last].map(token));
            let batch = Sequences::pad(&texts);
            let states = checkpoint::values(self.states(&batch, options)?.inner());
            let (first, second) = (&states[..width], &states[batch.seq * width..][..width]);
            let size = first.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
            if (first.iter().zip(second)).any(|(a, b)| (a - b).abs() > 1e-6 * size) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Sums of the normalised states: each of a mean has the same weight, else one has all of it.
fn pool_dense(hidden_nd: Tensor<2>, batch: &Sequences, options: &EncoderOptions) -> Tensor<2> {
    /// Added to the square of a state's length: a state of zeros stays, with a finite gradient.
    const EPSILON: f64 = 1e-24;
    let ([rows, seq], width) = ([batch.lengths.len(), batch.seq], hidden_nd.dims()[1]);
    let mut weights = vec![0.0_f32; rows * seq];
    for (weights, &length) in weights.chunks_mut(seq).zip(&batch.lengths) {
        let tokens = options.pooled(length);
        let tokens = match options.pooling {
            Pooling::Last => tokens.end.max(tokens.start + 1) - 1..tokens.end,
            Pooling::Cls => tokens.start..tokens.end.min(tokens.start + 1),
            Pooling::Mean | Pooling::Sparse => tokens,
        };
        let share = 1.0 / tokens.len() as f32;
        weights[tokens].fill(share);
    }
    let weights =
        Tensor::<1>::from_data(TensorData::new(weights, [rows * seq]), &hidden_nd.device());
    let hidden_nd = hidden_nd.cast(burn::tensor::FloatDType::F32);
    let length_n1 = (hidden_nd.clone().square().sum_dim(1) + EPSILON).sqrt();
    let weighted_nd = hidden_nd * (weights.unsqueeze_dim(1) / length_n1);
    weighted_nd
        .reshape([rows, seq, width])
        .sum_dim(1)
        .squeeze_dim(1)
}

/// Vectors on the host, in the order of their texts.
#[derive(Clone, PartialEq, Debug)]
pub enum Vectors {
    /// Of terms.
    Sparse(Vec<SparseVector>),
    /// Row after row.
    Dense {
        /// Numbers in a row.
        width: usize,
        /// `[texts, width]`.
        values: Vec<f32>,
    },
}

impl Vectors {
    /// Inner product of vector `place` with vector `other_place` of `other`.
    ///
    /// # Panics
    /// For vectors of different kinds.
    pub fn dot(&self, place: usize, other: &Self, other_place: usize) -> f64 {
        match (self, other) {
            (Self::Sparse(a), Self::Sparse(b)) => a[place].dot(&b[other_place]),
            (Self::Dense { width, values: a }, Self::Dense { values: b, .. }) => {
                let row = |values: &[f32], place: usize| -> Vec<f64> {
                    let row = &values[place * width..][..*width];
                    row.iter().map(|&x| f64::from(x)).collect()
                };
                let (a, b) = (row(a, place), row(b, other_place));
                a.iter().zip(&b).map(|(a, b)| a * b).sum()
            }
            _ => panic!("sparse and dense vectors have no inner product"),
        }
    }
}

/// The vectors of `texts` in their order, for search: the largest terms alone where `options` say so.
///
/// Texts of like length are read together, at most `batch_tokens` tokens at a time with padding (one text at least),
/// the longest first. `progress` is given the number of texts done after each batch. Give a model without
/// autodiff, and a large corpus in pieces: all vectors are held, dense ones with 4 bytes a number, sparse ones
/// with 8 bytes a term.
///
/// # Errors
/// [`ModelError::NotFinite`]; those of [`Model::encode`].
pub fn encode_all(
    model: &Model,
    texts: &[Vec<TokenId>],
    options: &EncoderOptions,
    role: Role,
    batch_tokens: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Vectors, ModelError> {
    let width = options.width(&model.config());
    let mut vectors = match options.pooling {
        Pooling::Sparse => Vectors::Sparse(vec![SparseVector::default(); texts.len()]),
        _ => Vectors::Dense {
            width,
            values: vec![0.0; texts.len() * width],
        },
    };
    let mut done = 0;
    for batch in batches(texts, batch_tokens) {
        let rows: Vec<&[TokenId]> = batch.iter().map(|&text| &texts[text][..]).collect();
        let values = checkpoint::values(model.encode(&Sequences::pad(&rows), options)?.inner());
        if values.iter().any(|x| !x.is_finite()) {
            return Err(ModelError::NotFinite {
                what: "representations",
            });
        }
        match &mut vectors {
            Vectors::Sparse(vectors) => {
                let rows: Vec<SparseVector> = values
                    .par_chunks(width)
                    .map(|row| SparseVector::from_row(row, options.top_k(role)))
                    .collect();
                for (&text, row) in batch.iter().zip(rows) {
                    vectors[text] = row;
                }
            }
            Vectors::Dense { values: all, .. } => {
                for (&text, row) in batch.iter().zip(values.chunks_exact(width)) {
                    all[text * width..][..width].copy_from_slice(row);
                }
            }
        }
        done += batch.len();
        progress(done);
    }
    Ok(vectors)
}

/// Texts read together: the longest first, `tokens` at most with padding.
fn batches(texts: &[Vec<TokenId>], tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(texts[text].len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for text in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * texts[batch[0]].len() <= tokens => batch.push(text),
            _ => batches.push(vec![text]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelOptions;
    use burn::tensor::Device;

    const POOLINGS: [Pooling; 4] = [Pooling::Sparse, Pooling::Mean, Pooling::Last, Pooling::Cls];

    fn model(family: &str) -> Model {
        let options = ModelOptions::default();
        let options = options.with_size(&format!("{family}:s0.1m")).unwrap();
        options.resolve(50).unwrap().init(3, &Device::flex())
    }

    /// Every kind of encoder, with its model.
    fn encoders() -> Vec<(Model, EncoderOptions)> {
        let mut all = vec![];
        for pooling in POOLINGS {
            for (family, t5_part, skip_bos, bidirectional) in [
                ("llama", T5Part::Encoder, false, true),
                ("llama", T5Part::Encoder, true, true),
                ("llama", T5Part::Encoder, false, false),
                ("t5", T5Part::Encoder, false, true),
                ("t5", T5Part::EncoderDecoder, true, true),
            ] {
                let options = EncoderOptions {
                    pooling,
                    t5_part,
                    skip_bos,
                    bidirectional,
                    ..EncoderOptions::default()
                };
                let model = model(family);
                options.validate(model.config().family()).unwrap();
                all.push((model, options));
            }
        }
        all
    }

    fn texts() -> Vec<Vec<TokenId>> {
        let text =
            |length: usize| (0..length).map(move |t| TokenId(((t * t + 7 * length) % 50) as u32));
        [9, 1, 4, 0, 17, 2].map(|l| text(l).collect()).into()
    }

    fn rows(model: &Model, texts: &[Vec<TokenId>], options: &EncoderOptions) -> Vec<Vec<f32>> {
        let vectors = model.encode(&Sequences::pad(texts), options).unwrap();
        let width = options.width(&model.config());
        assert_eq!(vectors.dims(), [texts.len(), width]);
        let values = checkpoint::values(vectors);
        values.chunks(width).map(<[f32]>::to_vec).collect()
    }

    #[test]
    fn a_vector_depends_on_its_text_alone() {
        for (model, options) in encoders() {
            let texts = texts();
            let together = rows(&model, &texts, &options);
            for (text, together) in texts.iter().zip(&together) {
                let alone = &rows(&model, std::slice::from_ref(text), &options)[0];
                for (a, b) in alone.iter().zip(together) {
                    assert!((a - b).abs() < 1e-5, "{options:?}: {a} and {b}");
                }
                let zero = alone.iter().all(|&x| x == 0.0);
                assert_eq!(zero, text.is_empty(), "{options:?}");
            }
        }
    }

    #[test]
    fn half_precision_changes_little() {
        for (model, options) in encoders() {
            let half = super::super::parameters::bf16(model.clone());
            let pairs = [&model, &half].map(|model| rows(model, &texts(), &options).concat());
            for (a, b) in pairs[0].iter().zip(&pairs[1]) {
                assert!((a - b).abs() < 0.05, "{options:?}: {a} and {b}");
            }
        }
    }

    #[test]
    fn dense_vectors_have_the_length_that_they_should() {
        for (model, options) in encoders() {
            let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
            let lengths = rows(&model, &texts(), &options);
            let lengths: Vec<f32> = lengths.iter().map(|row| length(row)).collect();
            match options.pooling {
                Pooling::Sparse => continue,
                // Of states that point in different directions.
                Pooling::Mean => assert!(lengths[0] < 0.999 && lengths[0] > 0.01),
                Pooling::Last | Pooling::Cls => assert!((lengths[0] - 1.0).abs() < 1e-5),
            }
            assert!((lengths[1] - 1.0).abs() < 1e-5, "of one token");
        }
    }

    #[test]
    fn a_model_that_reads_one_way_is_found_out() {
        for (model, options) in encoders() {
            let ahead = model.looks_ahead(&options).unwrap();
            assert_eq!(ahead, options.bidirectional, "{options:?}");
            model.check_both_ways(&options).unwrap();
        }
        let options = EncoderOptions::default();
        let zeros = model("llama").config().empty(&Device::flex());
        let error = zeros.check_both_ways(&options).unwrap_err();
        assert!(error.to_string().contains("bidirectional = false"));
        let accepted = EncoderOptions {
            bidirectional: false,
            ..options
        };
        zeros.check_both_ways(&accepted).unwrap();
    }

    #[test]
    fn the_largest_terms_are_kept() {
        let row = [0.0, 2.0, 0.5, 2.0, 0.0, 3.0];
        let all = SparseVector::from_row(&row, None);
        assert_eq!(
            (all.terms, all.weights),
            (vec![1, 2, 3, 5], vec![2.0, 0.5, 2.0, 3.0])
        );
        let two = SparseVector::from_row(&row, Some(2));
        assert_eq!((two.terms, two.weights), (vec![1, 5], vec![2.0, 3.0]));
        assert_eq!(SparseVector::from_row(&row, Some(4)).terms.len(), 4);
        assert_eq!(
            SparseVector::from_row(&[0.0], Some(4)),
            SparseVector::default()
        );
    }

    #[test]
    fn all_texts_are_encoded_in_their_order() {
        for (model, mut options) in encoders() {
            if options.pooling == Pooling::Sparse {
                options.passage_top_k = Some(5);
            }
            let texts = texts();
            let mut seen = vec![];
            let got = encode_all(&model, &texts, &options, Role::Passage, 20, &mut |done| {
                seen.push(done);
            });
            // 17 | 9 + 4 of 9 | 2 + 1 + 0.
            assert_eq!(seen, [1, 3, 6]);
            let expected = rows(&model, &texts, &options);
            let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
            match got.unwrap() {
                Vectors::Sparse(vectors) => {
                    for (vector, row) in vectors.iter().zip(&expected) {
                        assert!(vector.terms.len() <= 5 && vector.terms.is_sorted());
                        let named = vector.terms.iter().map(|&term| row[term as usize]);
                        assert!(close(&vector.weights, &named.collect::<Vec<_>>()));
                    }
                    assert_eq!(vectors[4].terms.len(), 5);
                }
                Vectors::Dense { width, values } => {
                    assert_eq!(width * texts.len(), values.len());
                    assert!(close(&values, &expected.concat()));
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let nan = model("llama");
        let nan = super::super::parameters::replace(nan, |name, _, old| match name {
            "model.norm.weight" => old * f32::NAN,
            _ => old,
        });
        for pooling in POOLINGS {
            let options = EncoderOptions {
                pooling,
                ..EncoderOptions::default()
            };
            let error = encode_all(&nan, &texts(), &options, Role::Query, 99, &mut |_| ());
            assert!(matches!(error, Err(ModelError::NotFinite { .. })));
        }
    }

    #[test]
    fn options_are_checked() {
        let parse = |text: &str| toml::from_str::<EncoderOptions>(text);
        assert_eq!(parse("").unwrap(), EncoderOptions::default());
        assert!(parse("pool = 'mean'").is_err());
        let given = parse("pooling = 'last'\npassage_tokens = 192\nbidirectional = false").unwrap();
        assert!(given.closes() && given.tokens(Role::Passage) == 192);
        assert_eq!(given.tokens(Role::Query), 64);
        for (text, family, expected) in [
            ("query_tokens = 0", Family::Llama, "query_tokens = 0"),
            ("query_top_k = 0", Family::Llama, "query_top_k = 0"),
            (
                "pooling = 'cls'\npassage_top_k = 9",
                Family::Llama,
                "passage_top_k = 9",
            ),
            ("bidirectional = false", Family::T5, "bidirectional = false"),
            ("skip_bos = true", Family::T5, "skip_bos = true"),
            ("t5_part = 'encoder_decoder'", Family::Llama, "t5_part"),
        ] {
            let error = parse(text)
                .unwrap()
                .validate(family)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
