package pocketrec

import org.bouncycastle.crypto.params.Ed25519PublicKeyParameters
import org.bouncycastle.crypto.signers.Ed25519Signer

/** Ed25519 over `manifest.json` (docs/bundle.md §9). The platform has it only since Android 13, so Bouncy Castle computes it. */
internal object Signing {
    /** Returns when one of [publicKeys] (32 raw bytes each) made [signature]; else `signature-invalid`. */
    fun verify(message: ByteArray, signature: ByteArray, publicKeys: List<ByteArray>) {
        val keys = publicKeys.mapNotNull(::key)
        for (key in keys) {
            val signer = Ed25519Signer()
            signer.init(false, key)
            signer.update(message, 0, message.size)
            if (signer.verifySignature(signature)) return
        }
        throw BundleException(
            "none of the ${publicKeys.size} public keys made the bundle's signature.", "signature-invalid",
            "Use a bundle signed by a key you trust, or pin its key.",
        )
    }

    /** Null for 32 bytes that are no point of the curve, or one of small order: such a key has signed nothing. */
    private fun key(raw: ByteArray): Ed25519PublicKeyParameters? {
        if (raw.size != Ed25519PublicKeyParameters.KEY_SIZE) {
            throw PocketrecException(
                "a public key is not 32 raw bytes of an Ed25519 key.", "key-invalid",
                "Use the public half of the key that signed the bundle, as raw bytes.",
            )
        }
        return try {
            Ed25519PublicKeyParameters(raw, 0)
        } catch (_: IllegalArgumentException) {
            null
        }
    }
}
