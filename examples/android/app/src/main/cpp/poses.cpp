// The native methods of PoseRunner.java: graphopt.h for Java. What goes wrong becomes an exception
// of Java's; none of C++ leaves a function here.

#include <graphopt.h>
#include <jni.h>

#include <cstring>
#include <new>
#include <vector>

namespace {

struct Handle {
    graphopt_runner* runner;
    std::vector<graphopt_person> people;
    std::vector<uint8_t> luma, chroma;  // of a frame that must be copied
};

Handle* from(jlong handle) { return reinterpret_cast<Handle*>(handle); }

// A string of Java's. NewStringUTF takes another encoding than UTF-8.
jstring text(JNIEnv* env, const char* utf8) {
    const auto length = static_cast<jsize>(std::strlen(utf8));
    const jbyteArray bytes = env->NewByteArray(length);
    const jstring charset = env->NewStringUTF("UTF-8");
    const jclass string = env->FindClass("java/lang/String");
    if (bytes == nullptr || charset == nullptr || string == nullptr) return nullptr;
    env->SetByteArrayRegion(bytes, 0, length, reinterpret_cast<const jbyte*>(utf8));
    const jmethodID make = env->GetMethodID(string, "<init>", "([BLjava/lang/String;)V");
    return static_cast<jstring>(env->NewObject(string, make, bytes, charset));
}

void raise(JNIEnv* env, int status, const char* what) {
    const jclass type =
        env->FindClass(status == GRAPHOPT_BAD_INPUT ? "java/lang/IllegalArgumentException"
                                                    : "java/lang/IllegalStateException");
    const jmethodID make = env->GetMethodID(type, "<init>", "(Ljava/lang/String;)V");
    const jstring message = text(env, what);
    if (message == nullptr) return;  // there is no memory; Java knows
    env->Throw(static_cast<jthrowable>(env->NewObject(type, make, message)));
}

// Run `work`; without memory, Java hears of it and `otherwise` is returned.
template <class Result, class Work>
Result guarded(JNIEnv* env, Result otherwise, const Work& work) {
    try {
        return work();
    } catch (const std::bad_alloc&) {
        raise(env, GRAPHOPT_UNSUPPORTED, "there is not enough memory");
        return otherwise;
    }
}

// A path of Java's, for as long as it is needed.
class Path {
public:
    Path(JNIEnv* env, jstring path)
        : env_(env),
          path_(path),
          chars_(path != nullptr ? env->GetStringUTFChars(path, nullptr) : nullptr) {}
    ~Path() {
        if (chars_ != nullptr) env_->ReleaseStringUTFChars(path_, chars_);
    }
    Path(const Path&) = delete;
    Path& operator=(const Path&) = delete;
    const char* chars() const { return chars_; }

private:
    JNIEnv* env_;
    jstring path_;
    const char* chars_;
};

// A plane of a camera's image, or where a copy of it goes: bytes from a row, and from a pixel, to
// the next.
template <class Byte>
struct Plane {
    Byte* data;
    size_t row, pixel;
};

// The plane behind a direct buffer; no data, and an exception, where it is none or too short.
Plane<const uint8_t> plane(JNIEnv* env, jobject buffer, jint row, jint pixel, int width,
                           int height) {
    const auto* data =
        buffer != nullptr ? static_cast<uint8_t*>(env->GetDirectBufferAddress(buffer)) : nullptr;
    const Plane<const uint8_t> found = {data, static_cast<size_t>(row), static_cast<size_t>(pixel)};
    if (data != nullptr && width > 0 && height > 0 && width <= GRAPHOPT_MAX_SIDE &&
        height <= GRAPHOPT_MAX_SIDE && row > 0 && pixel > 0) {
        const size_t line = found.pixel * static_cast<size_t>(width - 1) + 1;
        const size_t bytes = found.row * static_cast<size_t>(height - 1) + line;
        if (line <= found.row && bytes <= static_cast<size_t>(env->GetDirectBufferCapacity(buffer)))
            return found;
    }
    raise(env, GRAPHOPT_BAD_INPUT, "a plane is no direct buffer, or shorter than its image");
    return {};
}

// Copy a plane, turned clockwise by quarters of a circle.
void copy_turned(Plane<const uint8_t> from, int width, int height, int quarters,
                 Plane<uint8_t> to) {
    const auto across = static_cast<ptrdiff_t>(to.pixel), down = static_cast<ptrdiff_t>(to.row);
    // Where the first pixel goes, and how far a step to the right and a step down lead from there.
    const ptrdiff_t w = width - 1, h = height - 1;
    const ptrdiff_t starts[] = {0, h * across, w * across + h * down, w * down};
    const ptrdiff_t rights[] = {across, down, -across, -down};
    const ptrdiff_t downs[] = {down, -across, -down, across};
    for (int y = 0; y < height; ++y) {
        const uint8_t* source = from.data + static_cast<size_t>(y) * from.row;
        uint8_t* target = to.data + starts[quarters] + y * downs[quarters];
        for (int x = 0; x < width; ++x) {
            *target = *source;
            source += from.pixel;
            // Not past the last: a pointer outside of its memory is an error in itself.
            if (x + 1 < width) target += rights[quarters];
        }
    }
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_org_graphopt_poses_PoseRunner_open(JNIEnv* env, jclass, jstring bundle,
                                                                jstring cache, jint threads) {
    return guarded<jlong>(env, 0, [&]() -> jlong {
        const Path folder(env, bundle), kept(env, cache);
        graphopt_runner* runner = nullptr;
        graphopt_error error;
        const int status = graphopt_open(folder.chars(), kept.chars(), threads, &runner, &error);
        if (status != GRAPHOPT_OK) {
            raise(env, status, error.text);
            return 0;
        }
        auto* handle = new (std::nothrow) Handle{runner, {}, {}, {}};
        if (handle == nullptr) {
            graphopt_close(runner);
            throw std::bad_alloc();
        }
        return reinterpret_cast<jlong>(handle);
    });
}

JNIEXPORT void JNICALL Java_org_graphopt_poses_PoseRunner_close(JNIEnv*, jclass, jlong handle) {
    graphopt_close(from(handle)->runner);
    delete from(handle);
}

JNIEXPORT jstring JNICALL Java_org_graphopt_poses_PoseRunner_device(JNIEnv* env, jclass,
                                                                    jlong handle) {
    return text(env, graphopt_device(from(handle)->runner));
}

JNIEXPORT jstring JNICALL Java_org_graphopt_poses_PoseRunner_warning(JNIEnv* env, jclass,
                                                                     jlong handle, jint number) {
    const char* warning = graphopt_warning(from(handle)->runner, number);
    return warning != nullptr ? text(env, warning) : nullptr;
}

JNIEXPORT jobjectArray JNICALL Java_org_graphopt_poses_PoseRunner_find(
    JNIEnv* env, jclass, jlong opened, jobject y, jint y_row, jobject u, jobject v, jint uv_row,
    jint uv_pixel, jint width, jint height, jint quarters) {
    return guarded<jobjectArray>(env, nullptr, [&]() -> jobjectArray {
        Handle& handle = *from(opened);
        const int half_width = (width + 1) / 2, half_height = (height + 1) / 2;
        auto luma = plane(env, y, y_row, 1, width, height);
        if (luma.data == nullptr) return nullptr;
        const auto blue = plane(env, u, uv_row, uv_pixel, half_width, half_height);
        if (blue.data == nullptr) return nullptr;
        auto red = plane(env, v, uv_row, uv_pixel, half_width, half_height);
        if (red.data == nullptr) return nullptr;

        // Most cameras give V and U in turns, which is NV21 as it stands.
        const bool nv21 = uv_pixel == 2 && red.data + 1 == blue.data;
        const bool lies = quarters % 2 != 0;
        const int upright_width = lies ? height : width, upright_height = lies ? width : height;
        if (!nv21 || quarters != 0) {
            const auto row = static_cast<size_t>(upright_width);
            const size_t chroma_row = (row + 1) / 2 * 2;
            handle.luma.resize(row * static_cast<size_t>(upright_height));
            handle.chroma.resize(chroma_row * ((static_cast<size_t>(upright_height) + 1) / 2));
            uint8_t* chroma = handle.chroma.data();
            copy_turned(luma, width, height, quarters, {handle.luma.data(), row, 1});
            copy_turned(red, half_width, half_height, quarters, {chroma, chroma_row, 2});
            copy_turned(blue, half_width, half_height, quarters, {chroma + 1, chroma_row, 2});
            luma = {handle.luma.data(), row, 1};
            red = {chroma, chroma_row, 2};
        }

        handle.people.resize(static_cast<size_t>(graphopt_max_people(handle.runner)));
        int count = 0;
        graphopt_error error;
        const int status = graphopt_run_nv21(
            handle.runner, luma.data, luma.row, red.data, red.row, upright_width, upright_height,
            handle.people.data(), static_cast<int>(handle.people.size()), &count, &error);
        if (status != GRAPHOPT_OK) {
            raise(env, status, error.text);
            return nullptr;
        }

        const jobjectArray people = env->NewObjectArray(count, env->FindClass("[F"), nullptr);
        for (int i = 0; people != nullptr && i < count; ++i) {
            const graphopt_person& person = handle.people[static_cast<size_t>(i)];
            static_assert(sizeof(graphopt_keypoint) == 3 * sizeof(jfloat), "x, y, score");
            const jfloatArray numbers = env->NewFloatArray(1 + 3 * person.parts);
            if (numbers == nullptr) return nullptr;
            env->SetFloatArrayRegion(numbers, 0, 1, &person.score);
            env->SetFloatArrayRegion(numbers, 1, 3 * person.parts, &person.keypoints[0].x);
            env->SetObjectArrayElement(people, i, numbers);
            env->DeleteLocalRef(numbers);
        }
        return people;
    });
}

}  // extern "C"
