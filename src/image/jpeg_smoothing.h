// What an incomplete progressive JPEG leaves out, estimated from the averages of neighbouring
// blocks as libjpeg-turbo 3.2 (Pillow's) does it: 2.1 takes other neighbours in narrow and in
// vertically subsampled pictures.
#pragma once

#include <cstdio>

#include <jpeglib.h>

namespace siglip {

// Completes the coefficients of a progressive file in place, if it has any to complete. Every scan
// has been read; `last_good_row` is the last row of MCUs whose data the last scan held. Errors
// leave by the error manager's longjmp.
void SmoothBlocks(j_decompress_ptr info, jvirt_barray_ptr* coefficients, JDIMENSION last_good_row);

}  // namespace siglip
