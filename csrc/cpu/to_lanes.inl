// Images to lanes and back, compiled per instruction set. Layout: cpu/lane_tensors.h.
//
// Cost: one read and one write of the images, through square transposes in registers.

#include "cpu/batch_layout.inl"

// Where the values of rows [0, height) of an image go in a bundle, in the order they have in
// memory.
struct BundleWalk {
  std::vector<int64_t> channel_at, pixel_at;
  bool channels_fast;
  int64_t image, pixels;

  template <class T>
  BundleWalk(const LaneView<T>& b, bool channels_last)
      : channels_fast(channels_last),
        image(b.channels * b.height * b.width),
        pixels(b.height * b.width) {
    for (int64_t c = 0; c < b.channels; ++c) channel_at.push_back(c * b.plane_size());
    for (int64_t h = 0; h < b.height; ++h)
      for (int64_t w = 0; w < b.width; ++w)
        pixel_at.push_back((h + b.halo) * b.row_size() + (w + b.halo) * b.lanes);
    // Planes smaller than a few vectors: walk all channels as one contiguous run.
    if (!channels_fast && pixels < 4 * b.lanes) {
      std::vector<int64_t> all;
      for (int64_t channel : channel_at)
        for (int64_t pixel : pixel_at) all.push_back(channel + pixel);
      pixels = int64_t(all.size());
      pixel_at = std::move(all);
      channel_at = {0};
    }
  }

  int64_t slow_count() const { return channels_fast ? pixels : int64_t(channel_at.size()); }
  // The part of an image with slow indices [begin, end): pixels if channels are fast, else
  // channels.
  Walk part(int64_t begin, int64_t end) const {
    if (channels_fast) {
      const int64_t channels = int64_t(channel_at.size());
      return {image, channels, begin, end, 0, channels, pixel_at.data(), channel_at.data()};
    }
    return {image, pixels, begin, end, 0, pixels, channel_at.data(), pixel_at.data()};
  }
};

// Splits (bundle, part of the image) over the threads.
template <class F>
void for_each_part(int64_t bundles, const BundleWalk& walk, const Threads& threads, const F& f) {
  const int64_t parts =
      std::clamp<int64_t>(4 * threads.count / std::max<int64_t>(bundles, 1), 1, walk.slow_count());
  threads.run(bundles * parts, [&](int64_t item) {
    const int64_t bundle = item / parts, part = item % parts;
    f(bundle, walk.part(part * walk.slow_count() / parts, (part + 1) * walk.slow_count() / parts));
  });
}

template <class T>
void zero_halo(const LaneView<T>& b, int64_t bundle, int64_t channel) {
  T* plane = b.data + bundle * b.bundle_size() + channel * b.plane_size();
  const int64_t edge = b.halo * b.row_size(), side = b.halo * b.lanes;
  std::fill(plane, plane + edge, T{});
  for (int64_t h = 0; h < b.height; ++h) {
    T* row = plane + edge + h * b.row_size();
    std::fill(row, row + side, T{});
    std::fill(row + b.row_size() - side, row + b.row_size(), T{});
  }
  std::fill(plane + b.plane_size() - edge, plane + b.plane_size(), T{});
}

template <class T>
void images_to_lanes(const T* images, int64_t batch, bool channels_last, const LaneView<T>& b,
                     const Threads& threads) {
  const BundleWalk walk(b, channels_last);
  if (b.halo > 0)
    threads.run(b.bundles * b.channels,
                [&](int64_t item) { zero_halo(b, item / b.channels, item % b.channels); });
  for_each_part(b.bundles, walk, threads, [&](int64_t bundle, const Walk& part) {
    const int64_t first = bundle * b.lanes;
    pack(images + first * walk.image, std::min<int64_t>(b.lanes, batch - first), part,
         b.data + bundle * b.bundle_size());
  });
}

template <class T>
void lanes_to_images(const LaneView<T>& b, T* images, int64_t batch, bool channels_last,
                     const Threads& threads) {
  const BundleWalk walk(b, channels_last);
  for_each_part(b.bundles, walk, threads, [&](int64_t bundle, const Walk& part) {
    const int64_t first = bundle * b.lanes;
    unpack(static_cast<const T*>(b.data) + bundle * b.bundle_size(), part,
           images + first * walk.image, std::min<int64_t>(b.lanes, batch - first));
  });
}

// The same planes with another halo.
template <class T>
void copy_lanes(const LaneView<T>& from, const LaneView<T>& to, const Threads& threads) {
  threads.run(to.bundles * to.channels, [&](int64_t item) {
    const int64_t bundle = item / to.channels, channel = item % to.channels;
    zero_halo(to, bundle, channel);
    const T* source = from.at(bundle, 0, 0) + channel * from.plane_size();
    T* target = to.at(bundle, 0, 0) + channel * to.plane_size();
    for (int64_t h = 0; h < to.height; ++h)
      std::copy_n(source + h * from.row_size(), to.width * to.lanes, target + h * to.row_size());
  });
}
