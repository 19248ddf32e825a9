//! Loops compiled once per vector width, the width chosen at run time.
//!
//! The bodies are plain Rust over slices that the compiler vectorises; none of them uses fused
//! multiply-add, and sums go through a fixed number of partial sums, so every processor computes the
//! same bits.

/// Defines a function whose body is also compiled for AVX2 and AVX-512 and called through the widest.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
                    // SAFETY: AVX-512BW and VL were detected; they imply AVX-512F and AVX2.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: AVX2 was detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(super) use wide;

wide! {
    /// Appends the largest of every `chunk` scores, which are not negative.
    pub(super) fn chunk_maxima(scores: &[f32], chunk: usize, maxima: &mut Vec<f32>) {
        for scores in scores.chunks(chunk) {
            let mut lanes = [0.0f32; 16];
            let (groups, rest) = scores.as_chunks::<16>();
            for group in groups {
                for lane in 0..16 {
                    lanes[lane] = if group[lane] > lanes[lane] { group[lane] } else { lanes[lane] };
                }
            }
            let mut half = 8;
            while half > 0 {
                for lane in 0..half {
                    let other = lanes[lane + half];
                    lanes[lane] = if other > lanes[lane] { other } else { lanes[lane] };
                }
                half /= 2;
            }
            maxima.push(rest.iter().fold(lanes[0], |a, &b| if b > a { b } else { a }));
        }
    }
}
