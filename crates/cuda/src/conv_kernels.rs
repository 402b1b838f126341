//! Names of the convolutions' kernels: a variant for each element type and size.

/// The 1×1 convolution with groups of `tiles` tiles of 8 channels out and `chunks` chunks of 16 channels in.
pub(crate) fn point_kernel(is_f16: bool, tiles: usize, chunks: usize) -> &'static str {
    match (is_f16, tiles, chunks) {
        (true, 2, 1) => "conv_point_2_1_f16",
        (true, 2, 3) => "conv_point_2_3_f16",
        (true, 2, _) => "conv_point_2_0_f16",
        (true, 6, 1) => "conv_point_6_1_f16",
        (true, 6, 3) => "conv_point_6_3_f16",
        (true, 6, _) => "conv_point_6_0_f16",
        (true, _, _) => "conv_point_8_0_f16",
        (false, 2, 1) => "conv_point_2_1_bf16",
        (false, 2, 3) => "conv_point_2_3_bf16",
        (false, 2, _) => "conv_point_2_0_bf16",
        (false, 6, 1) => "conv_point_6_1_bf16",
        (false, 6, 3) => "conv_point_6_3_bf16",
        (false, 6, _) => "conv_point_6_0_bf16",
        (false, _, _) => "conv_point_8_0_bf16",
    }
}

/// The 3×3 convolution on tiles with `tiles` tiles of 8 channels out, with a chain after it or without; `usual` for 48 channels in and
/// out.
pub(crate) fn tile_kernel(is_f16: bool, chain: bool, tiles: usize, usual: bool) -> &'static str {
    match (is_f16, chain, tiles) {
        (true, false, _) if usual => "conv_tile_48_f16",
        (false, false, _) if usual => "conv_tile_48_bf16",
        (true, true, _) if usual => "conv_chain_48_f16",
        (false, true, _) if usual => "conv_chain_48_bf16",
        (true, false, 2) => "conv_tile_2_f16",
        (true, false, 4) => "conv_tile_4_f16",
        (true, false, 6) => "conv_tile_6_f16",
        (true, false, _) => "conv_tile_8_f16",
        (false, false, 2) => "conv_tile_2_bf16",
        (false, false, 4) => "conv_tile_4_bf16",
        (false, false, 6) => "conv_tile_6_bf16",
        (false, false, _) => "conv_tile_8_bf16",
        (true, true, 2) => "conv_chain_2_f16",
        (true, true, 4) => "conv_chain_4_f16",
        (true, true, 6) => "conv_chain_6_f16",
        (true, true, _) => "conv_chain_8_f16",
        (false, true, 2) => "conv_chain_2_bf16",
        (false, true, 4) => "conv_chain_4_bf16",
        (false, true, 6) => "conv_chain_6_bf16",
        (false, true, _) => "conv_chain_8_bf16",
    }
}
