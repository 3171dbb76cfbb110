#![no_main]

use lambic_connectors::Format;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    lambic_sim::decoders::records(Format::Csv, bytes);
});
