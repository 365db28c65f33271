// One instruction set's copy of the optimizer step.
namespace SPARSELTH_ISA {
namespace {
#include "cpu/masked_sgd.inl"
}  // namespace
}  // namespace SPARSELTH_ISA
