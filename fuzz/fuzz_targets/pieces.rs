#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dtun_fuzz::pieces(bytes));
