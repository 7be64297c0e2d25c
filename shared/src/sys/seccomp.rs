//! A kernel that lacks or refuses system calls, for one thread.

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

    install(filter)
}

/// Lets `call` fail with `errno` where its argument `at`, counted from 0, has
/// the low 32 bits `value`, on this thread, for good.
pub(crate) fn refuse(call: libc::c_long, at: u32, value: u32, errno: i32) -> io::Result<()> {
    let number = u32::try_from(call).map_err(io::Error::other)?;
    let errno = u32::try_from(errno).map_err(io::Error::other)?;
    let argument = ARGUMENTS + at * 8 + if cfg!(target_endian = "big") { 4 } else { 0 };
    let (load, is) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
    );

    install(vec![
        instruction(load, 0, 0),
        instruction(is, 3, number),
        instruction(load, 0, argument),
        instruction(is, 1, value),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | errno,
        ),
    ])
}

/// Has a filter decide that allows what it says nothing of.
fn install(mut filter: Vec<libc::sock_filter>) -> io::Result<()> {
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

/// In `struct seccomp_data`: after number, architecture and instruction pointer.
const ARGUMENTS: u32 = 16;
