package pocketrec.android

import android.content.Context
import pocketrec.BundleException
import pocketrec.BundleSource
import java.io.FileNotFoundException

/**
 * A bundle that travels as one asset, a stored ZIP, mapped where it lies inside the APK: no copy, no second time on the disk.
 *
 * The asset must be stored uncompressed: `androidResources { noCompress += "bundle" }` in Gradle, `-0 .bundle` for aapt2.
 */
public fun assetBundle(context: Context, name: String): BundleSource {
    val asset = try {
        context.assets.openFd(name)
    } catch (error: FileNotFoundException) {
        throw BundleException(
            "the asset $name is absent or compressed.", "bundle-missing", "Add its extension to noCompress.", error,
        )
    }
    val stream = asset.createInputStream()
    return BundleSource.zip(stream.channel, asset.startOffset, asset.length, name, stream)
}
