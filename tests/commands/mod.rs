mod embed;
mod errors;
mod quantize;
mod round_trip;
mod smollm2;
