//! What kernels share: the size of a cube, and what its units find together.

use cubecl::prelude::*;

/// Units of a cube, a power of two.
#[derive(Clone, Copy, Debug)]
pub struct Units(usize);

impl Units {
    /// # Panics
    /// Where `count` is no power of two.
    pub fn new(count: usize) -> Self {
        assert!(count.is_power_of_two(), "{count} units are no power of two");
        Self(count)
    }

    /// As many as suit the device: `most` on a GPU; one where units run one after the other, as on a CPU.
    pub fn of(client: &Client, most: usize) -> Self {
        let hardware = &client.properties().hardware;
        if hardware.plane_size_max == 1 {
            return Self(1);
        }
        let limit = (hardware.max_units_per_cube as usize).min(hardware.max_cube_dim.0 as usize);
        Self::new(most.min(limit.next_power_of_two() / if limit.is_power_of_two() { 1 } else { 2 }))
    }

    /// The number.
    pub fn get(self) -> usize {
        self.0
    }

    /// A cube of so many units in a row.
    pub fn cube_dim(self) -> CubeDim {
        CubeDim::new_1d(self.0 as u32)
    }
}

/// Joins a maximum and a sum of `e^(x - maximum)` per unit; the first of each becomes that of all.
#[cube]
pub(crate) fn reduce_max_sum(maxima: &mut [f32], sums: &mut [f32], #[comptime] units: usize) {
    let unit = UNIT_POS_X as usize;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            let own = maxima[unit];
            let other = maxima[unit + half];
            let max = f32::max(own, other);
            sums[unit] =
                sums[unit] * f32::exp(own - max) + sums[unit + half] * f32::exp(other - max);
            maxima[unit] = max;
        }
        sync_cube();
        half /= 2;
    }
}

/// The largest of one number per unit becomes the first.
#[cube]
pub(crate) fn reduce_max(values: &mut [f32], #[comptime] units: usize) {
    let unit = UNIT_POS_X as usize;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = values[unit + half];
            values[unit] = f32::max(values[unit], other);
        }
        sync_cube();
        half /= 2;
    }
}

/// Adds one number per unit; the first becomes the sum.
#[cube]
pub(crate) fn reduce_sum<N: Numeric>(values: &mut [N], #[comptime] units: usize) {
    reduce_sums::<N>(values, 1usize, units);
}

/// Adds one number per unit of several kinds, which stand `units` apart; the first of a kind becomes its sum.
#[cube]
pub(crate) fn reduce_sums<N: Numeric>(
    values: &mut [N],
    #[comptime] kinds: usize,
    #[comptime] units: usize,
) {
    let unit = UNIT_POS_X as usize;
    sync_cube();
    let mut half = comptime!(units / 2).runtime();
    while half > 0 {
        if unit < half {
            for kind in 0..kinds {
                let other = values[kind * units + unit + half];
                values[kind * units + unit] += other;
            }
        }
        sync_cube();
        half /= 2;
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use cubecl::prelude::*;
    use cubecl::server::Handle;

    /// A client of CubeCL's CPU runtime.
    pub(crate) fn client() -> Client {
        cubecl::Device::from(cubecl::cpu::CpuDevice).client()
    }

    /// A buffer of these values.
    pub(crate) fn upload(client: &Client, values: &[f32]) -> Handle {
        client.create_from_slice(f32::as_bytes(values))
    }

    /// The values of a buffer.
    pub(crate) fn values(client: &Client, handle: Handle) -> Vec<f32> {
        f32::from_bytes(&client.read_one_unchecked(handle)).to_vec()
    }

    /// `len` numbers in -1..1, the same for the same seed.
    pub(crate) fn random(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }
}
