mod errors;
mod round_trip;
mod smollm2;
