plugins {
    alias(libs.plugins.kotlin.jvm)
    `java-library`
    `maven-publish`
}

group = "pocketrec"
version = "0.1.0"

kotlin {
    explicitApi()
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_1_8
        freeCompilerArgs.addAll("-Xlambdas=class", "-Xsam-conversions=class", "-Xstring-concat=inline")
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

dependencies {
    api(libs.coroutines.core)
    implementation(libs.bouncycastle)
    compileOnly(libs.onnxruntime.jvm) // an app that wants it brings onnxruntime-android
}

publishing {
    publications {
        create<MavenPublication>("library") {
            artifactId = "pocketrec-engine"
            from(components["java"])
        }
    }
}
