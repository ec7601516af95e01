//! The kernels' parameter structs, made from `kernels/params.h` by bindgen.
#![allow(missing_docs, non_snake_case, non_camel_case_types, non_upper_case_globals, dead_code, clippy::all)]
// The zeros that bindgen makes of structs with unions.
#![allow(unsafe_code)]
include!(concat!(env!("OUT_DIR"), "/params.rs"));
