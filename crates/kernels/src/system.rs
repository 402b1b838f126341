//! The few requests to the operating system that the standard library has no function for. Linux on x86-64; elsewhere
//! they are left out or refused.

/// A system call with up to four arguments; negative results are errors.
///
/// # Safety
/// The call must be one that is sound with these arguments.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(crate) unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the caller's promise; the registers are those of the x86-64 convention.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// Asks for huge pages behind `len` bytes from `start` on, which must not have been touched yet to profit. (Rolling windows
/// of wide pictures are tens of megabytes that are read row by row: with small pages a tenth of the time goes to them.)
pub(crate) fn prefer_huge_pages(start: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        const MADVISE: usize = 28;
        const MADV_HUGEPAGE: usize = 14;
        // SAFETY: this advice changes how memory is backed, never what it holds; a wrong range is refused.
        let _refused_is_fine = unsafe { call(MADVISE, [start as usize, len, MADV_HUGEPAGE, 0]) };
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    let _ = (start, len);
}
