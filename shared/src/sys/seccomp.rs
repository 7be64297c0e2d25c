//! A kernel that lacks system calls, for one thread.

use std::io;

use super::check;

/// Lets each of `calls` fail with `ENOSYS` on this thread, for good.
pub(crate) fn lack(calls: &[libc::c_long]) -> io::Result<()> {
    let load_number = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0);
    let mut filter = vec![load_number];
    for call in calls {
        let number = u32::try_from(*call).map_err(io::Error::other)?;
        filter.push(instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            number,
        ));
        let missing = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, missing));
    }
    let allow = libc::SECCOMP_RET_ALLOW;
    filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, allow));
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_mut_ptr(),
    };

    // SAFETY: the option takes plain integers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: `program` points to `filter`, and both live through the call,
    // which copies them.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    })?;

    Ok(())
}

/// `skip_unless` is the number of instructions to skip if a comparison fails.
fn instruction(code: u32, skip_unless: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip_unless,
        k,
    }
}
