#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lambic_sim::decoders::segment(bytes);
});
