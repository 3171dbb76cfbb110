#![no_main]

libfuzzer_sys::fuzz_target!(|sql: &str| {
    lambic_sim::decoders::statements(sql);
});
