#include "runtime/decoder.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

class FakeDecoder : public Decoder {
 public:
  explicit FakeDecoder(int64_t position) : position_(position) {}
  int64_t vocab_size() const override { return 100; }
  int64_t context_length() const override { return 8; }
  int64_t position() const override { return position_; }
  void reset() override { position_ = 0; }
  std::span<const float> forward(std::span<const int32_t> ids) override {
    check_ids(ids);
    return {};
  }
  void forward_all(std::span<const int32_t> ids, std::span<float>) override { check_ids(ids); }

 private:
  int64_t position_;
};

std::string failure(int64_t position, std::vector<int32_t> ids) {
  FakeDecoder decoder(position);
  try {
    decoder.forward(ids);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Decoder, AcceptsWhatFits) {
  EXPECT_EQ(failure(0, {0, 99, 50}), "");
  EXPECT_EQ(failure(5, {1, 2, 3}), "");
}

TEST(Decoder, RefusesIdsOutsideTheVocabulary) {
  EXPECT_EQ(failure(0, {1, 100}),
            "The id 100 at index 1 is outside this model's vocabulary of 100 ids.");
  EXPECT_NE(failure(0, {-1}).find("id -1"), std::string::npos);
}

TEST(Decoder, RefusesAnOverfullContext) {
  EXPECT_EQ(failure(6, {1, 2, 3}),
            "The context holds 8 positions: 6 are taken and 3 more do not fit.");
  EXPECT_NE(failure(8, {1}), "");
}

TEST(Decoder, RefusesNoIds) { EXPECT_NE(failure(0, {}), ""); }

}  // namespace
}  // namespace nibble::runtime
