//! bf16 products on AMX tiles, by inline assembly: the intrinsics are not stable.
//!
//! A tile register holds 16 rows of 64 bytes. `A` tiles are 16 rows of 16 pairs of bf16, `B` tiles 16 pairs of `k` by 16
//! columns as the panels hold them, `C` tiles 16 rows of 16 sums. Up to four `C` tiles side by side stay in registers for
//! the whole of `k`.

use super::Product;
#[cfg(target_os = "linux")]
use crate::system;
use std::arch::asm;
use std::sync::OnceLock;

/// Rows of a tile, pairs of `k` in one, and columns of one.
pub(crate) const TILE: usize = 16;

/// The layout that `ldtilecfg` reads: all eight tiles have 16 rows of 64 bytes.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Whether AMX with bf16 works here: the CPU lists it, the kernel permits it, and a child process that tries survives.
/// (Under some hypervisors the CPU lists what then faults.)
pub(crate) fn works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| listed() && permitted() && probed())
}

fn listed() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    if __cpuid(0).eax < 7 {
        return false;
    }
    __cpuid_count(7, 0).edx & (BF16 | TILES) == BF16 | TILES
}

#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    // SAFETY: this call touches no memory; it only asks for the right to use the tile registers.
    unsafe { system::call(ARCH_PRCTL, [ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA, 0, 0]) == 0 }
}

/// Runs the instructions once in a child process, which dies in our place if they fault.
#[cfg(target_os = "linux")]
fn probed() -> bool {
    const FORK: usize = 57;
    const WAIT4: usize = 61;
    const EXIT_GROUP: usize = 231;
    let mut status = -1i32;
    // SAFETY: between fork and exit the child makes no call into any library and touches only its own copy of memory;
    // `status` outlives the wait.
    unsafe {
        let child = system::call(FORK, [0; 4]);
        if child == 0 {
            configure();
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tdpbf16ps tmm0, tmm1, tmm2", options(nostack));
            release();
            system::call(EXIT_GROUP, [0; 4]);
        }
        child > 0 && {
            let waited = system::call(WAIT4, [child as usize, &raw mut status as usize, 0, 0]);
            waited == child && status == 0
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn probed() -> bool {
    false
}

/// # Safety
/// AMX must work.
unsafe fn configure() {
    // SAFETY: the configuration is a valid one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) }
}

/// # Safety
/// AMX must work.
unsafe fn release() {
    // SAFETY: gives the tile registers back.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

impl Product<'_> {
    /// The product of bf16 pairs; rows are computed in sixteens, so `a` must be readable and `c` writable up to the next
    /// multiple of [`TILE`] rows, and `a` for a whole tile beyond its last row's start.
    ///
    /// # Safety
    /// AMX must work, `b` must be packed in bf16 for [`Isa::Amx`](crate::Isa::Amx), and pointers as said.
    pub(crate) unsafe fn multiply_amx(&self) {
        debug_assert!(self.b.steps.is_multiple_of(TILE));
        // SAFETY: the panel lies within `data`; rows and columns are the caller's promise.
        unsafe {
            configure();
            for panel in &self.b.panels {
                let b = self.b.data.as_ptr().add(panel.offset);
                for row in (0..self.m).step_by(TILE) {
                    let (a, c) = (self.a.add(row * self.lda), self.c.add(row * self.ldc + panel.column));
                    match panel.vectors {
                        1 => self.tiles_1(a, b, c),
                        2 => self.tiles_2(a, b, c),
                        3 => self.tiles_3(a, b, c),
                        _ => self.tiles_4(a, b, c),
                    }
                }
            }
            release();
        }
    }
}

/// Defines the loop over `k` for a number of tiles side by side.
macro_rules! tiles {
    ($name:ident, $count:literal, zero: [$($zero:literal),*], step: [$($step:literal),*], store: [$($store:literal),*]) => {
        impl Product<'_> {
            /// # Safety
            /// As `multiply_amx`.
            unsafe fn $name(&self, a: *const f32, b: *const f32, c: *mut f32) {
                const WIDTH: usize = $count * TILE * size_of::<f32>();
                // SAFETY: reads 16 rows of `A` and `steps` rows of the panel, writes 16 rows of `C`. No code but this
                // uses tile registers, so they need no saving.
                unsafe {
                    asm!(
                        $($zero,)*
                        "2:",
                        "tileloadd tmm4, [{a} + {lda}*1]",
                        $($step,)*
                        "add {a}, 64",
                        "add {b}, {b_step}",
                        "dec {k}",
                        "jnz 2b",
                        $($store,)*
                        a = inout(reg) a => _,
                        b = inout(reg) b => _,
                        k = inout(reg) self.b.steps / TILE => _,
                        c = in(reg) c,
                        lda = in(reg) self.lda * size_of::<f32>(),
                        ldb = in(reg) WIDTH,
                        ldc = in(reg) self.ldc * size_of::<f32>(),
                        b_step = in(reg) WIDTH * TILE,
                        options(nostack)
                    );
                }
            }
        }
    };
}

tiles!(tiles_1, 1,
    zero: ["tilezero tmm0"],
    step: ["tileloadd tmm5, [{b} + {ldb}*1]", "tdpbf16ps tmm0, tmm4, tmm5"],
    store: ["tilestored [{c} + {ldc}*1], tmm0"]);
tiles!(tiles_2, 2,
    zero: ["tilezero tmm0", "tilezero tmm1"],
    step: [
        "tileloadd tmm5, [{b} + {ldb}*1]", "tdpbf16ps tmm0, tmm4, tmm5",
        "tileloadd tmm6, [{b} + {ldb}*1 + 64]", "tdpbf16ps tmm1, tmm4, tmm6"
    ],
    store: ["tilestored [{c} + {ldc}*1], tmm0", "tilestored [{c} + {ldc}*1 + 64], tmm1"]);
tiles!(tiles_3, 3,
zero: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2"],
step: [
    "tileloadd tmm5, [{b} + {ldb}*1]", "tdpbf16ps tmm0, tmm4, tmm5",
    "tileloadd tmm6, [{b} + {ldb}*1 + 64]", "tdpbf16ps tmm1, tmm4, tmm6",
    "tileloadd tmm7, [{b} + {ldb}*1 + 128]", "tdpbf16ps tmm2, tmm4, tmm7"
],
store: [
    "tilestored [{c} + {ldc}*1], tmm0", "tilestored [{c} + {ldc}*1 + 64], tmm1",
    "tilestored [{c} + {ldc}*1 + 128], tmm2"
]);
tiles!(tiles_4, 4,
zero: ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
step: [
    "tileloadd tmm5, [{b} + {ldb}*1]", "tdpbf16ps tmm0, tmm4, tmm5",
    "tileloadd tmm6, [{b} + {ldb}*1 + 64]", "tdpbf16ps tmm1, tmm4, tmm6",
    "tileloadd tmm7, [{b} + {ldb}*1 + 128]", "tdpbf16ps tmm2, tmm4, tmm7",
    "tileloadd tmm5, [{b} + {ldb}*1 + 192]", "tdpbf16ps tmm3, tmm4, tmm5"
],
store: [
    "tilestored [{c} + {ldc}*1], tmm0", "tilestored [{c} + {ldc}*1 + 64], tmm1",
    "tilestored [{c} + {ldc}*1 + 128], tmm2", "tilestored [{c} + {ldc}*1 + 192], tmm3"
]);
