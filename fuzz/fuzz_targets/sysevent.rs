#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vminfod_fuzz::sysevent(data));
