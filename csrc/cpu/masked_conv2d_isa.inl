// One instruction set's copy of the convolution kernels.
namespace SPARSELTH_ISA {
namespace {
#include "common/simd.inl"
#include "cpu/batch_layout.inl"
#include "cpu/sparse_tiles.inl"
#include "cpu/masked_conv2d.inl"
}  // namespace
}  // namespace SPARSELTH_ISA
