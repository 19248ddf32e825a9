//! Floating-point operations of training and decoding, from counts alone.
//!
//! A matrix of N parameters costs 2 N per token forward and twice that backward (Kaplan et al. 2020,
//! section 2.1); attention over a context of c tokens costs 4 c times the width of all query heads
//! per layer and token (2 for the scores, 2 for the weighted sum). The output head is counted for
//! the positions it is evaluated at. Norms, rotations and softmax are left out, as is usual.

/// The counts that decide a model's cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelCounts {
    /// Parameters of matrices that every token passes, without embedding and head.
    pub params_non_embedding: f64,
    /// Parameters of the output head: vocabulary times width.
    pub params_head: f64,
    /// Layers.
    pub layers: f64,
    /// Width of all query heads together.
    pub attention_width: f64,
}

impl ModelCounts {
    /// FLOPs of one causal forward pass over `tokens` tokens that follow `context` cached ones, with
    /// the head evaluated at `heads` positions.
    pub fn forward(&self, context: f64, tokens: f64, heads: f64) -> f64 {
        // Token i of the pass sees context + i + 1 positions.
        let seen = tokens * context + tokens * (tokens + 1.0) / 2.0;
        2.0 * self.params_non_embedding * tokens
            + 4.0 * self.layers * self.attention_width * seen
            + 2.0 * self.params_head * heads
    }

    /// FLOPs of training on one example: forward and backward, head at the target positions. The last
    /// target token is predicted but never read.
    pub fn train(&self, prompt: usize, target: usize) -> f64 {
        3.0 * self.forward(0.0, (prompt + target) as f64 - 1.0, target as f64)
    }

    /// FLOPs of decoding one query: `prompt` tokens once, then `new` tokens on each of `beam`
    /// hypotheses (the first of them comes from the prompt).
    pub fn decode(&self, prompt: usize, new: usize, beam: usize) -> f64 {
        let (prompt, steps, beam) = (prompt as f64, new as f64 - 1.0, beam as f64);
        self.forward(0.0, prompt, 1.0) + beam * self.forward(prompt, steps, steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_by_hand() {
        let counts = ModelCounts {
            params_non_embedding: 100.0,
            params_head: 30.0,
            layers: 2.0,
            attention_width: 4.0,
        };
        // 3 tokens seeing 1 + 2 + 3 = 6 positions: 600 + 4*2*4*6 + 60
        assert_eq!(counts.forward(0.0, 3.0, 1.0), 600.0 + 192.0 + 60.0);
        // prompt 3, target 2: 4 tokens read, 2 predicted; 1+2+3+4 = 10 positions
        assert_eq!(counts.train(3, 2), 3.0 * (800.0 + 320.0 + 120.0));
        // prompt of 3, then one step of one token seeing 4 positions on 5 beams
        assert_eq!(counts.decode(3, 2, 5), 852.0 + 5.0 * (200.0 + 128.0 + 60.0));
        assert_eq!(counts.decode(3, 1, 5), 852.0);
    }
}
