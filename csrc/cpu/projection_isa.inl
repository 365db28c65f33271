// One instruction set's copy of the selection kernels.
namespace SPARSELTH_ISA {
namespace {
#include "common/simd.inl"
#include "cpu/select.inl"
#include "cpu/projection.inl"
}  // namespace
}  // namespace SPARSELTH_ISA
